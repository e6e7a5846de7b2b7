"""What is claimed of a technique, and the rule that decides whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stockenh.evaluation.paired import BOTH, DATES, LEVEL, SEEDS, Interval, holm

HOLDS, FAILS, OPEN = "holds", "does not hold", "can't tell"
UNMEASURED = "not measured"
# Measures of which a claim promises a gain over the plain recipe.
GAINS = ("accuracy", "auc", "log_loss", "train_speed", "inference_speed", "ece", "roughness")


@dataclass(frozen=True)
class Measure:
    """A figure that claims are made of: what it is, its unit, and which way is better."""

    title: str
    unit: str
    more_is_better: bool
    digits: int = 2
    over: str = BOTH  # what its interval is over


MEASURES = {
    "accuracy": Measure("accuracy above the plain recipe", "points", True),
    "accuracy_kept": Measure("share kept of the plain recipe's accuracy above the majority class", "", True),
    "auc": Measure("AUC above the plain recipe's", "", True, 4),
    "log_loss": Measure("log loss above the plain recipe's", "", False, 4),
    "ece": Measure("expected calibration error above the plain recipe's", "", False, 4),
    "convergence": Measure("plain epochs to its best loss over epochs to the same loss", "x", True, 2, SEEDS),
    "time_to_plain": Measure("time to the plain recipe's best loss over its own", "", False, 2, SEEDS),
    "roughness": Measure("mean change of the loss between epochs over plain's", "x", False, 2, SEEDS),
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
class Measured:
    """What was measured of a claim.

    shown:   None where nothing can be shown
    beyond:  what the measure has beyond a bound, whose sign and p-value decide
    obstacle: why no test can decide, where that is so
    """

    shown: Interval | None
    beyond: Callable[[float], Interval]
    obstacle: str | None = None

    @classmethod
    def of(cls, found: Interval | None) -> Measured | None:
        """Of a figure that is compared with the bound itself."""
        return None if found is None else cls(found, found.moved)


@dataclass(frozen=True)
class Verdict:
    """holds, does not hold, can't tell; and why."""

    word: str
    why: str


@dataclass(frozen=True)
class ClaimLine:
    """One claim, what was measured of it, and the verdict.

    p:         two-sided, of the claim's minimum, adjusted for the number of claims; None without a test
    corrected: the interval that leaves out what is rejected at that number of claims
    """

    claim: Claim
    measured: Interval | None
    verdict: Verdict
    p: float | None = None
    corrected: tuple[float | None, float | None] = (None, None)


def judge(
    given: Sequence[tuple[Claim, Measured | None]], device: str, majority: float | None
) -> list[ClaimLine]:
    """The verdicts on all claims of an ablation, in their order.

    A claim is tested against its minimum, two-sided, and the p-values of all claims are adjusted together
    (Holm 1979). At most 5%: it holds, or it does not, by the side. Else the verdict is open. No test is made
    of what is measured once without noise (bytes, memory), of a claim about a GPU measured on a CPU or about
    unbalanced classes measured on balanced ones, or from a single seed.

    device: cpu or cuda; majority: the larger class's share in test.
    """
    untested = [_without_test(claim, measured, device, majority) for claim, measured in given]
    tested = [
        (claim, measured)
        for (claim, measured), verdict in zip(given, untested, strict=True)
        if verdict is None and measured is not None
    ]
    p_values = [measured.beyond(claim.minimum).p() for claim, measured in tested]
    adjusted = iter(holm([1.0 if p is None else p for p in p_values]))
    lines = []
    for (claim, measured), verdict in zip(given, untested, strict=True):
        shown = None if measured is None else measured.shown
        if verdict is not None or measured is None:
            lines.append(ClaimLine(claim, shown, verdict or Verdict(OPEN, UNMEASURED)))
            continue
        p, factor = next(adjusted)
        corrected = (None, None) if shown is None else shown.ends(LEVEL / factor)
        lines.append(ClaimLine(claim, shown, _tested(claim, measured, p, factor), p, corrected))
    return lines


def _without_test(
    claim: Claim, measured: Measured | None, device: str, majority: float | None
) -> Verdict | None:
    """The verdict where no test decides; else None."""
    if claim.device is not None and claim.device != device:
        return Verdict(OPEN, f"a claim about {claim.device}, measured on {device}")
    if claim.majority is not None and (majority is None or majority < claim.majority):
        share = "unknown" if majority is None else f"{majority:.0%}"
        return Verdict(OPEN, f"classes are balanced here (the larger has {share})")
    if measured is None:
        return Verdict(OPEN, UNMEASURED)
    if measured.obstacle is not None:
        return Verdict(OPEN, measured.obstacle)
    measure, beyond = MEASURES[claim.measure], measured.beyond(claim.minimum)
    if measure.over in ("processes", "models"):
        reached = _sign(claim) * beyond.mean >= 0  # without noise to speak of, as the size of a file
        return Verdict(HOLDS if reached else FAILS, "measured once" if reached else "short of the claim")
    if beyond.over == DATES:
        return Verdict(OPEN, "one seed: its interval is over dates only")
    if beyond.over == "":
        return Verdict(OPEN, f"one of the {measure.over.partition(' ')[0]} gives no interval")
    if measure.over == BOTH and beyond.over != BOTH:
        return Verdict(OPEN, "too few test dates: the interval is over seeds only")
    return None


def _tested(claim: Claim, measured: Measured, p: float, factor: int) -> Verdict:
    """The verdict by an adjusted p-value; factor: that of the adjustment, for what else is said."""
    beyond, sign, level = measured.beyond(claim.minimum), _sign(claim), LEVEL / factor

    def is_beyond(bound: float, side: int) -> bool:
        """Whether the measure lies on that side of the bound, at the claim's level."""
        found = measured.beyond(bound)
        probability = found.p()
        return side * found.mean > 0 and probability is not None and probability <= level

    if p > LEVEL:
        return Verdict(OPEN, _what_would_tell(claim, beyond, level))
    if sign * beyond.mean >= 0:
        far_end = claim.most if sign > 0 else claim.least
        is_more = far_end is not None and is_beyond(far_end, sign)
        return Verdict(HOLDS, "beyond the claim" if is_more else "reaches the claim")
    no_effect = 1.0 if MEASURES[claim.measure].unit == "x" else 0.0
    is_harm = claim.measure in GAINS and is_beyond(no_effect, -sign)
    return Verdict(FAILS, "worse than plain" if is_harm else "short of the claim")


def _what_would_tell(claim: Claim, beyond: Interval, level: float) -> str:
    if beyond.is_open_by_dates(level):
        return "more seeds would not tell: the test part has too few dates"
    over = MEASURES[claim.measure].over.partition(" ")[0]
    if (enough := beyond.values_needed(level)) is None:
        return f"no number of {over} up to 1,000 would tell"
    return f"about {max(enough, beyond.n + 1)} {over} would tell"


def _sign(claim: Claim) -> int:
    """Upside down where less is better, so that more always is."""
    return 1 if MEASURES[claim.measure].more_is_better else -1
