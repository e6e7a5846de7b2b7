"""What is claimed of a technique, and the rule that decides whether it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.975  # the upper end of a 95% interval
MOST_VALUES = 1000
HOLDS, FAILS, OPEN = "holds", "does not hold", "can't tell"
# Measures of which a claim promises a gain over the plain recipe.
GAINS = ("accuracy", "train_speed", "inference_speed", "ece", "roughness")


@dataclass(frozen=True)
class Measure:
    """A figure that claims are made of: what it is, its unit, and which way is better."""

    title: str
    unit: str
    more_is_better: bool
    digits: int = 2
    over: str = "seeds"  # what its interval is over


MEASURES = {
    "accuracy": Measure("accuracy above the plain recipe", "points", True),
    "accuracy_kept": Measure("share of the plain recipe's accuracy", "", True, 3),
    "ece": Measure("expected calibration error above the plain recipe's", "", False, 4),
    "log_loss": Measure("log loss above the plain recipe's", "", False, 4),
    "convergence": Measure("plain epochs to its best loss over epochs to the same loss", "x", True),
    "time_to_plain": Measure("time to the plain recipe's best loss, as a share of its own", "", False),
    "roughness": Measure("mean change of the loss between epochs over the plain recipe's", "x", False),
    "train_speed": Measure("training windows per second over the plain recipe's", "x", True, over="rounds"),
    "memory": Measure("peak memory of training steps over the plain recipe's", "x", False, over="processes"),
    "inference_speed": Measure("forecasts per second over the plain recipe's", "x", True, over="rounds"),
    "weights_bytes": Measure("bytes of the weights over the plain recipe's", "x", False, over="models"),
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """What is claimed of one measure.

    least, most: the claimed range; its end nearer to no effect is the claim's minimum
    says:        the claim in words
    device:      the kind of device that it is about; majority: the share of the larger class from which on
                 data are as unbalanced as it supposes
    """

    measure: str
    least: float | None = None
    most: float | None = None
    says: str = ""
    device: str | None = None
    majority: float | None = None

    @property
    def minimum(self) -> float:
        """What must be reached: at least this where more is better, else at most this."""
        bound = self.least if MEASURES[self.measure].more_is_better else self.most
        assert bound is not None, "checked where claims are read"
        return bound


@dataclass(frozen=True)
class Verdict:
    """holds, does not hold, can't tell; and why."""

    word: str
    why: str


def assess(claim: Claim, values: Sequence[float], device: str, majority: float | None) -> Verdict:
    """The verdict on a claim from its measured values, one per seed (or round).

    The interval wholly at the claimed minimum or beyond: holds. Wholly short of it: does not hold. Else, and
    with a single seed, the verdict is open, as it is for a claim about a GPU measured on a CPU, or about
    unbalanced classes measured on balanced ones. device: cpu or cuda; majority: the larger class's share in
    test.
    """
    if claim.device is not None and claim.device != device:
        return Verdict(OPEN, f"a claim about {claim.device}, measured on {device}")
    if claim.majority is not None and (majority is None or majority < claim.majority):
        share = "unknown" if majority is None else f"{majority:.0%}"
        return Verdict(OPEN, f"classes are balanced here (the larger has {share})")
    found, measure = Interval.of(values), MEASURES[claim.measure]
    if found is None:
        return Verdict(OPEN, "not measured")
    # upside down where less is better, so that more always is
    sign = 1 if measure.more_is_better else -1
    minimum = sign * claim.minimum
    if found.low is None or found.high is None:
        if measure.over not in ("processes", "models"):
            return Verdict(OPEN, f"one of the {measure.over} gives no interval")
        reached = sign * found.mean >= minimum  # without noise to speak of, as the size of a file
        return Verdict(HOLDS if reached else FAILS, "measured once" if reached else "short of the claim")
    worst, best = sorted((sign * found.low, sign * found.high))
    if worst >= minimum:
        far_end = claim.most if measure.more_is_better else claim.least
        beyond = far_end is not None and worst > sign * far_end
        return Verdict(HOLDS, "beyond the claim" if beyond else "reaches the claim")
    if best < minimum:
        no_effect = 1.0 if measure.unit == "x" else 0.0
        is_harm = claim.measure in GAINS and best < sign * no_effect
        return Verdict(FAILS, "worse than plain" if is_harm else "short of the claim")
    if (enough := values_needed(values, claim.minimum)) is None:
        return Verdict(OPEN, f"no number of {measure.over} up to 1,000 would tell")
    return Verdict(OPEN, f"about {max(enough, len(values) + 1)} {measure.over} would tell")


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval by Student's t; the ends are None with fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval | None:
        """mean ± t(0.975, n - 1) s / sqrt(n), Student (1908); None without a value."""
        if not values:
            return None
        n, mean = len(values), float(np.mean(values))
        if n == 1:
            return cls(mean, None, None, 1)
        half = _half_width(n, float(np.std(values, ddof=1)))
        return cls(mean, mean - half, mean + half, n)


def values_needed(values: Sequence[float], bound: float) -> int | None:
    """How many values would put the bound outside the interval, if mean and spread stayed as they are.

    None with fewer than two values, where the mean lies at the bound, and beyond 1,000.
    """
    if len(values) < 2:
        return None
    distance, spread = abs(float(np.mean(values)) - bound), float(np.std(values, ddof=1))
    enough = (n for n in range(2, MOST_VALUES + 1) if distance > 0 and _half_width(n, spread) < distance)
    return next(enough, None)


def _half_width(n: int, deviation: float) -> float:
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(n - 1, LEVEL)) * deviation / math.sqrt(n)
