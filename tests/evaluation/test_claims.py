"""The rule that decides whether a claim holds."""

from __future__ import annotations

import pytest

from stockenh.evaluation.claims import FAILS, HOLDS, MEASURES, OPEN, Claim, assess

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
