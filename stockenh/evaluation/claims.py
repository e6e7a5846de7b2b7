"""What is claimed of a technique, and the written rule that says whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stockenh.evaluation.bootstrap import Interval, seeds_to_tell

HOLDS, FAILS, OPEN = "holds", "does not hold", "can't tell"


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
    """What is said of one measure.

    least, most: the claimed range; its end nearer to no effect is the claim's minimum
    device:      the kind of device that it is about; majority: the share of the larger class from which on
                 data are as unbalanced as it supposes
    """

    measure: str
    least: float | None
    most: float | None
    says: str
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


def judge(claim: Claim, values: Sequence[float], device: str, majority: float | None) -> Verdict:
    """The verdict on a claim from its measured values, one per seed (or round).

    The interval wholly at the claimed minimum or beyond: holds. Wholly short of it: does not hold. Else, and
    with a single seed, nobody can tell. A claim about a card is not judged on a processor, nor one about
    unbalanced classes on balanced ones. device: cpu or cuda; majority: the larger class's share in test.
    """
    if claim.device is not None and claim.device != device:
        return Verdict(OPEN, f"a claim about {claim.device}, measured on {device}")
    if claim.majority is not None and (majority is None or majority < claim.majority):
        share = "unknown" if majority is None else f"{majority:.0%}"
        return Verdict(OPEN, f"classes are balanced here (the larger has {share})")
    found = Interval.of(values)
    if found is None:
        return Verdict(OPEN, "not measured")
    measure = MEASURES[claim.measure]
    if found.low is None or found.high is None:
        if measure.over in ("processes", "models"):
            return _of_one(claim, found.mean)
        return Verdict(OPEN, f"one of the {measure.over} gives no interval")
    worse, better = (found.low, found.high) if measure.more_is_better else (-found.high, -found.low)
    minimum = claim.minimum if measure.more_is_better else -claim.minimum
    if worse >= minimum:
        return Verdict(HOLDS, _how_far(claim, found))
    if better < minimum:
        return Verdict(FAILS, "worse than plain" if _is_harm(claim, found) else "short of the claim")
    if (enough := seeds_to_tell(values, claim.minimum)) is None:
        return Verdict(OPEN, f"no number of {measure.over} up to 1,000 would tell")
    return Verdict(OPEN, f"about {max(enough, len(values) + 1)} {measure.over} would tell")


def _of_one(claim: Claim, value: float) -> Verdict:
    """A figure without noise to speak of, such as the size of a file."""
    more = MEASURES[claim.measure].more_is_better
    reached = value >= claim.minimum if more else value <= claim.minimum
    return Verdict(HOLDS if reached else FAILS, "measured once" if reached else "short of the claim")


def _how_far(claim: Claim, found: Interval) -> str:
    assert found.low is not None and found.high is not None
    more = MEASURES[claim.measure].more_is_better
    far_end = claim.most if more else claim.least
    if far_end is not None and (found.low > far_end if more else found.high < far_end):
        return "beyond the claim"
    return "reaches the claim"


def _is_harm(claim: Claim, found: Interval) -> bool:
    """Whether a gain was claimed and the whole interval is a loss."""
    neutral = 1.0 if MEASURES[claim.measure].unit == "x" else 0.0
    assert found.low is not None and found.high is not None
    if claim.measure not in ("accuracy", "train_speed", "inference_speed", "ece", "roughness"):
        return False
    return found.high < neutral if MEASURES[claim.measure].more_is_better else found.low > neutral
