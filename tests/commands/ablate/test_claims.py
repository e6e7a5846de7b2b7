"""The rule that decides whether a claim holds."""

import numpy as np
import pytest

from stockenh.commands.ablate.claims import (
    FAILS,
    HOLDS,
    MEASURES,
    OPEN,
    Claim,
    Measured,
    judge,
)
from stockenh.evaluation.paired import BOTH, DATES, Interval

GAIN = Claim("accuracy", 1.0, 3.0, "+1 to 3")
LESS = Claim("ece", None, 0.0, "better calibration")
SPEED = Claim("train_speed", 2.0, 3.0, "2-3x")


def measured(claim, values):
    """As if the values were of seeds on endless dates."""
    return Measured.of(Interval.of(values, MEASURES[claim.measure].over))


def assess(claim, values, device="cpu", majority=None):
    (line,) = judge([(claim, measured(claim, values))], device, majority)
    return line.verdict


@pytest.mark.parametrize(
    ("claim", "values", "word", "why"),
    [
        (GAIN, [2.0, 2.1, 1.9], HOLDS, "reaches the claim"),
        (GAIN, [5.0, 5.1, 4.9], HOLDS, "beyond the claim"),
        (GAIN, [1.0, 1.0, 1.0], HOLDS, "reaches the claim"),  # at the minimum is enough
        (GAIN, [0.4, 0.5, 0.6], FAILS, "short of the claim"),
        (GAIN, [-2.0, -2.1, -1.9], FAILS, "worse than plain"),
        (GAIN, [-0.1, -0.2, 0.1], FAILS, "short of the claim"),  # may be no worse than plain
        (GAIN, [1.0, 2.0, 3.0], OPEN, "about 7 seeds would tell"),
        (GAIN, [2.0], OPEN, "one of the seeds gives no interval"),
        (GAIN, [], OPEN, "not measured"),
        (LESS, [-0.02, -0.021, -0.019], HOLDS, "reaches the claim"),
        (LESS, [0.02, 0.021, 0.019], FAILS, "worse than plain"),
        (LESS, [-0.02, 0.02, 0.03], OPEN, None),
        (Claim("memory", None, 0.5, "half"), [0.4], HOLDS, "measured once"),
        (Claim("memory", None, 0.5, "half"), [0.6], FAILS, "short of the claim"),
        (SPEED, [1.5, 1.6, 1.5], FAILS, "short of the claim"),
        (SPEED, [0.5, 0.6, 0.5], FAILS, "worse than plain"),
        (Claim("auc", 0.0, None, "better order"), [0.02, 0.021, 0.019], HOLDS, "reaches the claim"),
        (Claim("log_loss", None, 0.0, "better"), [0.02, 0.021, 0.019], FAILS, "worse than plain"),
    ],
)
def test_verdicts(claim, values, word, why):
    found = assess(claim, values)
    assert found.word == word
    assert why is None or found.why == why


def test_a_claim_about_a_gpu_is_open_on_a_cpu():
    claim = Claim("memory", None, 0.5, "half the GPU memory", device="cuda")
    assert assess(claim, [0.1]).word == OPEN
    assert assess(claim, [0.1]).why == "a claim about cuda, measured on cpu"
    assert assess(claim, [0.1], "cuda").word == HOLDS


def test_a_claim_about_unbalanced_classes_is_open_on_balanced_ones():
    claim = Claim("accuracy", 2.0, 4.0, "+2 to 4 in unbalanced regimes", majority=0.6)
    values = [0.1, 0.11, 0.09]
    assert assess(claim, values, majority=0.52).word == OPEN
    assert "52%" in assess(claim, values, majority=0.52).why
    assert assess(claim, values, majority=0.6).word == FAILS
    assert assess(claim, values, majority=None).word == OPEN


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_can_hold_and_fail(measure):
    more = MEASURES[measure].more_is_better
    claim = Claim(measure, 1.0 if more else None, None if more else 1.0, "")
    good, bad = ([3.0] * 3, [0.5] * 3) if more else ([0.5] * 3, [3.0] * 3)
    assert assess(claim, good).word == HOLDS
    assert assess(claim, bad).word == FAILS


def test_many_claims_are_corrected_together():
    """One of p = 0.04 holds alone, and not as one of four; one of p < 0.001 holds among four too."""
    weak, strong, nothing = [2.0, 2.6, 2.3, 3.9, 1.1], [2.0, 2.1, 1.9, 2.0, 2.1], [1.0, 1.4, 0.7, 0.9, 1.2]
    assert assess(GAIN, weak).word == HOLDS
    lines = judge([(GAIN, measured(GAIN, v)) for v in (weak, nothing, strong, nothing)], "cpu", None)
    assert [line.verdict.word for line in lines] == [OPEN, OPEN, HOLDS, OPEN]
    alone = Interval.of(weak).moved(1.0).p()
    assert lines[0].p == pytest.approx(3 * alone) and 0.02 < alone < 0.05
    for line in lines:
        low, high = line.corrected
        assert (line.verdict.word == OPEN) == (low <= 1.0 <= high)
        assert low < line.measured.low and high > line.measured.high


def test_what_is_not_tested_does_not_count_among_the_claims():
    untested = [
        (Claim("memory", None, 0.5, "half"), measured(Claim("memory", None, 0.5), [0.4])),
        (Claim("train_speed", 2.0, 3.0, "on a GPU", device="cuda"), measured(SPEED, [1.0, 1.1, 1.0])),
        (GAIN, measured(GAIN, [2.0])),
        (GAIN, None),
    ]
    lines = judge([*untested, (GAIN, measured(GAIN, [2.0, 2.6, 2.3, 3.9, 1.1]))], "cpu", None)
    assert [line.p is None for line in lines] == [True, True, True, True, False]
    assert lines[-1].verdict.word == HOLDS


def test_worse_than_plain_must_be_as_sure_as_the_verdict():
    values = [-0.5, -0.9, -0.2, -0.6, -1.5]  # p of 0 is 0.03, of 1 below 0.003
    assert assess(GAIN, values).why == "worse than plain"
    crowd = [(GAIN, measured(GAIN, [1.0, 1.4, 0.7, 0.9, 1.2]))] * 9
    line = judge([(GAIN, measured(GAIN, values)), *crowd], "cpu", None)[0]
    assert (line.verdict.word, line.verdict.why) == (FAILS, "short of the claim")


def of_table(seeds, of_seeds, of_dates, mean):
    rng = np.random.default_rng(2)
    parts = of_seeds * rng.normal(size=(seeds, 1)) + of_dates * rng.normal(size=300)
    table = parts + 0.01 * rng.normal(size=(seeds, 300))
    return Measured.of(Interval.of_table((table - table.mean() + mean) / 300, 15))


def test_what_would_tell_is_more_seeds_only_where_seeds_leave_it_open():
    lines = judge([(GAIN, of_table(3, 0.3, 0.01, 1.4)), (GAIN, of_table(3, 0.001, 8.0, 1.4))], "cpu", None)
    assert [line.measured.over for line in lines] == [BOTH, BOTH]
    assert lines[0].verdict.why.startswith("about ") and "seeds would tell" in lines[0].verdict.why
    assert lines[1].verdict.why == "more seeds would not tell: the test part has too few dates"


def test_a_single_seed_has_an_interval_over_dates_and_no_verdict():
    found = of_table(1, 0, 0.1, 50.0)
    (line,) = judge([(GAIN, found)], "cpu", None)
    assert line.measured.over == DATES and line.measured.low > 40
    assert (line.verdict.word, line.verdict.why) == (OPEN, "one seed: its interval is over dates only")


def test_too_few_dates_leave_the_verdict_open():
    short = Measured.of(Interval.of_table(np.full((3, 20), 5.0) + np.arange(3)[:, None] / 100, 15))
    (line,) = judge([(GAIN, short)], "cpu", None)
    assert line.verdict.word == OPEN and "too few test dates" in line.verdict.why


def test_an_obstacle_is_the_reason_of_an_open_verdict():
    found = Measured(None, Interval.of([1.0, 1.1], BOTH).moved, "there is nothing to keep")
    (line,) = judge([(Claim("accuracy_kept", 0.95), found)], "cpu", None)
    assert line.verdict == line.verdict.__class__(OPEN, "there is nothing to keep") and line.p is None
