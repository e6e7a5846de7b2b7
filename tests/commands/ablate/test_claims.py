"""The rule that decides whether a claim holds."""

import pytest

from stockenh.commands.ablate import claims
from stockenh.commands.ablate.claims import FAILS, HOLDS, MEASURES, OPEN, Claim, Interval, assess

GAIN = Claim("accuracy", 1.0, 3.0, "+1 to 3")
LESS = Claim("ece", None, 0.0, "better calibration")


@pytest.mark.parametrize(
    ("claim", "values", "word", "why"),
    [
        (GAIN, [2.0, 2.1, 1.9], HOLDS, "reaches the claim"),
        (GAIN, [5.0, 5.1, 4.9], HOLDS, "beyond the claim"),
        (GAIN, [1.0, 1.0, 1.0], HOLDS, "reaches the claim"),  # at the minimum is enough
        (GAIN, [0.4, 0.5, 0.6], FAILS, "short of the claim"),
        (GAIN, [-2.0, -2.1, -1.9], FAILS, "worse than plain"),
        (GAIN, [1.0, 2.0, 3.0], OPEN, "about 7 seeds would tell"),
        (GAIN, [2.0], OPEN, "one of the seeds gives no interval"),
        (GAIN, [], OPEN, "not measured"),
        (LESS, [-0.02, -0.021, -0.019], HOLDS, "reaches the claim"),
        (LESS, [0.02, 0.021, 0.019], FAILS, "worse than plain"),
        (LESS, [-0.02, 0.02, 0.03], OPEN, None),
        (Claim("memory", None, 0.5, "half"), [0.4], HOLDS, "measured once"),
        (Claim("memory", None, 0.5, "half"), [0.6], FAILS, "short of the claim"),
        (Claim("train_speed", 2.0, 3.0, "2-3x"), [1.5, 1.6, 1.5], FAILS, "short of the claim"),
        (Claim("train_speed", 2.0, 3.0, "2-3x"), [0.5, 0.6, 0.5], FAILS, "worse than plain"),
    ],
)
def test_verdicts(claim, values, word, why):
    found = assess(claim, values, "cpu", 0.5)
    assert found.word == word
    assert why is None or found.why == why


def test_a_claim_about_a_gpu_is_open_on_a_cpu():
    claim = Claim("memory", None, 0.5, "half the GPU memory", device="cuda")
    assert assess(claim, [0.1], "cpu", None).word == OPEN
    assert assess(claim, [0.1], "cpu", None).why == "a claim about cuda, measured on cpu"
    assert assess(claim, [0.1], "cuda", None).word == HOLDS


def test_a_claim_about_unbalanced_classes_is_open_on_balanced_ones():
    claim = Claim("accuracy", 2.0, 4.0, "+2 to 4 in unbalanced regimes", majority=0.6)
    assert assess(claim, [0.1, 0.1, 0.1], "cpu", 0.52).word == OPEN
    assert "52%" in assess(claim, [0.1, 0.1, 0.1], "cpu", 0.52).why
    assert assess(claim, [0.1, 0.1, 0.1], "cpu", 0.6).word == FAILS
    assert assess(claim, [0.1, 0.1, 0.1], "cpu", None).word == OPEN


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_can_hold_and_fail(measure):
    more = MEASURES[measure].more_is_better
    claim = Claim(measure, 1.0 if more else None, None if more else 1.0, "")
    good, bad = ([3.0] * 3, [0.5] * 3) if more else ([0.5] * 3, [3.0] * 3)
    assert assess(claim, good, "cpu", None).word == HOLDS
    assert assess(claim, bad, "cpu", None).word == FAILS


def test_three_values_have_the_interval_of_student_with_two_degrees_of_freedom():
    # mean 2, s = 1, t(0.975, 2) = 4.302653: 4.302653 / sqrt(3) = 2.484138
    found = Interval.of([1.0, 2.0, 3.0])
    assert found is not None and found.n == 3
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-6)


def test_two_values_need_a_factor_of_almost_thirteen():
    # s = sqrt(0.5), half = 12.706205 x sqrt(0.5) / sqrt(2) = 6.353102
    found = Interval.of([0.0, 1.0])
    assert found is not None and found.high == pytest.approx(0.5 + 6.353102, abs=1e-6)


def test_one_value_has_no_interval_and_none_nothing():
    assert Interval.of([0.3]) == Interval(0.3, None, None, 1)
    assert Interval.of([]) is None


def test_how_many_values_an_interval_needs():
    # mean 2, s = 1, bound 1: t(n - 1) / sqrt(n) < 1 first at n = 7 (6: 2.5706 / 2.4495; 7: 2.4469 / 2.6458)
    assert claims.values_needed([1.0, 2.0, 3.0], 1.0) == 7
    assert claims.values_needed([1.0, 2.0, 3.0], 2.0) is None
    assert claims.values_needed([1.0], 0.0) is None
