"""What claims are made of: differences in scores by seed and date, curves of the loss, costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from stockenh.commands.ablate.claims import MEASURES, Measured
from stockenh.commands.ablate.plan import PLAIN, Row
from stockenh.commands.ablate.results import Found
from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.metrics import SMALLEST_GAP
from stockenh.evaluation.paired import SEEDS, Interval
from stockenh.evaluation.shares import stacked

NOTHING_TO_KEEP = "plain is not above the majority class: there is nothing to keep"
COSTS = ("train_speed", "memory", "inference_speed", "weights_bytes")
CURVES = ("convergence", "time_to_plain", "roughness")
FARTHEST = 1e6  # a share's end that is looked for


def measured(measure: str, row: Row, found: Found, horizon: str) -> Measured | None:
    """A measure of a row beside the plain recipe; None where there is none. horizon: such as h5."""
    if measure == "accuracy_kept":
        return _kept(row, found, horizon)
    if measure in COSTS or measure in CURVES:
        values = _of_costs(measure, row, found) if measure in COSTS else _of_curves(measure, row, found)
        over = MEASURES[measure].over if measure in MEASURES else SEEDS
        return Measured.of(Interval.of(values, over))
    return Measured.of(difference(measure, row, found, horizon))


def difference(score: str, row: Row, found: Found, horizon: str) -> Interval | None:
    """A score less the plain recipe's, over seeds and dates; accuracy and the gap closed in points."""
    seeds = found.seeds(row)
    name = "accuracy" if score == "gap_closed" else score
    own = stacked([found.shares(row, seed).get(horizon, {}) for seed in seeds], name)
    plain = stacked([found.plain(seed).get(horizon, {}) for seed in seeds], name)
    if own is None or plain is None:
        return None
    unit = 100.0 if score in ("accuracy", "gap_closed") else 1.0
    if score == "gap_closed":
        # of the same rows, so that majority and limit are the same for both
        if (gap := gap_of(found.plain(seeds[0]).get(horizon, {}))) is None:
            return None
        unit /= gap
    return Interval.of_table(unit * (own - plain), found.block)


def gap_of(scores: Mapping[str, Floats]) -> float | None:
    """From the majority class to the limit; None where it is unknown, or so small that its share is noise."""
    if not {"limit_accuracy", "majority"} <= scores.keys():
        return None
    gap = float(scores["limit_accuracy"].sum() - scores["majority"].sum())
    return gap if gap >= SMALLEST_GAP else None


def _kept(row: Row, found: Found, horizon: str) -> Measured | None:
    """The share that a row keeps of what the plain recipe has above the majority class of the same rows.

    A claim is tested by what the row has above the majority class less the claimed share of what plain has,
    which is defined whatever plain has. The interval of the share is all shares that this does not reject
    (Fieller 1954).
    """
    seeds = found.seeds(row)
    own = stacked([found.shares(row, seed).get(horizon, {}) for seed in seeds], "accuracy")
    plain = stacked([found.plain(seed).get(horizon, {}) for seed in seeds], "accuracy")
    majority = stacked([found.plain(seed).get(horizon, {}) for seed in seeds], "majority")
    if own is None or plain is None or majority is None:
        return None
    kept, whole = own - majority, plain - majority

    def beyond(share: float) -> Interval:
        return Interval.of_table(kept - share * whole, found.block)

    above = Interval.of_table(whole, found.block)
    if above.mean <= 0 or (above.low is not None and above.low <= 0):
        return Measured(None, beyond, NOTHING_TO_KEEP)
    share = beyond(0.0).mean / above.mean
    if above.low is None:
        return Measured(Interval(share), beyond)
    about = beyond(share)
    return Measured(Interval(share, *_not_rejected(beyond, share), about.n, about.over), beyond)


def _not_rejected(beyond: Callable[[float], Interval], share: float) -> tuple[float | None, float | None]:
    """The ends of the shares beyond which what a row has differs from 0; None where they are nowhere near."""
    from scipy.optimize import brentq

    def within(other: float) -> float:
        """Above 0 where the share is not rejected."""
        found = beyond(other)
        half = found.mean - found.low if found.low is not None else 0.0
        return half - abs(found.mean)

    ends: list[float | None] = []
    for side in (-1, 1):
        step = 0.1
        while within(share + side * step) > 0 and step < FARTHEST:
            step *= 2
        if step >= FARTHEST:
            ends.append(None)
        else:
            ends.append(share if within(share) <= 0 else brentq(within, share, share + side * step))
    return ends[0], ends[1]


def _of_costs(measure: str, row: Row, found: Found) -> list[float]:
    """Over the plain recipe's, one value per round, or one in all."""
    costs = found.cost.get(measure, {})
    key = row.recipe if measure in ("train_speed", "memory") else row.name
    if measure in ("train_speed", "inference_speed"):
        return list(costs.get(key, []))
    own, plain = costs.get(key), costs.get(PLAIN)
    return [own / plain] if own and plain else []


def _of_curves(measure: str, row: Row, found: Found) -> list[float]:
    given = []
    speeds = sorted(found.cost.get("train_speed", {}).get(row.recipe, []))
    for seed in found.seeds(row):
        own, plain = found.runs[row.recipe, seed], found.runs[PLAIN, seed]
        if not own.curve or not plain.curve:
            continue
        if measure == "roughness":
            if (of_plain := roughness(plain.averaged)) and (of_own := roughness(own.averaged)) is not None:
                given.append(of_own / of_plain)
            continue
        first, reached = epochs_to_plain(plain.curve, own.curve)
        if measure == "convergence":
            given.append(first / reached)
        elif speeds:
            given.append(reached / first / speeds[len(speeds) // 2])
    return given


def epochs_to_plain(plain: Sequence[float], own: Sequence[float]) -> tuple[int, int]:
    """The epoch of the plain recipe's best validation loss, and the first in which another is as low.

    Where it never is, the epoch after its last, which flatters it.
    """
    best = min(plain)
    reached = (epoch for epoch, loss in enumerate(own, 1) if loss <= best)
    return plain.index(best) + 1, next(reached, len(own) + 1)


def roughness(curve: Sequence[float]) -> float | None:
    """The mean absolute change of a loss from one epoch to the next; None with a single epoch."""
    changes = [abs(b - a) for a, b in pairwise(curve)]
    return sum(changes) / len(changes) if changes else None
