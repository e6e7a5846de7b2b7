"""Whether an input says more of a label than anything that is known at that bar can.

Legend: n windows, F inputs, H horizons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.leakage import FAIL, NOT_APPLICABLE, PASS, Check, some

Floats = NDArray[np.floating]

MOST_ROWS = 8000  # evenly spread over train: more hardly narrow an error that overlapping labels set
_CERTAIN = 0.99  # a copy of a label has 1, however few the rows
_ERRORS = 0.01  # chance of one false alarm in a whole audit of inputs that say nothing


@dataclass(frozen=True)
class Correlations:
    """rank and gini, both (F, H): Spearman's correlation with the return, and 2 AUC - 1 for its direction;
    0 where a column is constant or not finite."""

    rank: NDArray[np.float64]
    gini: NDArray[np.float64]

    @property
    def strongest(self) -> NDArray[np.float64]:
        """(F, H) the larger of the two sizes."""
        return np.asarray(np.maximum(np.abs(self.rank), np.abs(self.gini)))


def correlations(inputs: Floats, y_ret: Floats) -> Correlations:
    """Of every input (n, F) with every return (n, H), rows without that label left out."""
    from scipy.stats import rankdata

    rank = np.zeros((inputs.shape[1], y_ret.shape[1]))
    gini = np.zeros_like(rank)
    for column, y in enumerate(y_ret.T):
        there = np.isfinite(y)
        if there.sum() < 3:
            continue
        ranks = _unit(rankdata(inputs[there], axis=0))
        rank[:, column] = ranks.T @ _unit(rankdata(y[there])[:, None])[:, 0]
        moved = y[there] != 0
        gini[:, column] = _gini(rankdata(inputs[there][moved], axis=0), y[there][moved] > 0)
    return Correlations(np.nan_to_num(rank), np.nan_to_num(gini))


def limits(
    plausible: float,
    y_ret: Floats,
    dates: NDArray[np.datetime64],
    horizons: Sequence[int],
    tests: int,
    best_prob: Floats | None = None,
) -> NDArray[np.float64]:
    """(H,) the correlation from which on an input is implausible.

    plausible: more than an honest input has. On little data the limit rises to what chance gives inputs that
    say nothing: 1% for one false alarm among `tests`, by Fisher's transform. Labels of h bars overlap and
    symbols move together, so h dates count as one observation, the worst case of Bartlett (1946). Where the
    best forecast is known (best_prob, (n, H)) an input may have as much as that, and the error of both.
    """
    from scipy.stats import norm

    z = float(norm.isf(_ERRORS / 2 / max(tests, 1)))
    found = []
    for column, horizon in enumerate(horizons):
        there = np.isfinite(y_ret[:, column])
        observations = len(np.unique(dates[there])) / horizon
        error = z / math.sqrt(observations - 3) if observations > 4 else math.inf
        limit = max(plausible, math.tanh(error))
        if best_prob is not None and there.sum() >= 3:
            own = correlations(best_prob[there, column, None], y_ret[there, column, None])
            best = min(float(own.strongest.max()), _CERTAIN)
            limit = max(limit, math.tanh(math.atanh(best) + error))
        found.append(min(limit, _CERTAIN))
    return np.array(found)


def check_correlations(
    names: Sequence[str], found: Correlations, limit: NDArray[np.float64], horizons: Sequence[int]
) -> Check:
    """No input lies beyond its horizon's limit."""
    name = "inputs and labels"
    strongest = found.strongest
    beyond = strongest > limit
    by_horizon = [int(i) for i in strongest.argmax(0)]
    highest = {
        f"h{h}": {"input": names[i], "correlation": float(strongest[i, c]), "limit": float(limit[c])}
        for c, (h, i) in enumerate(zip(horizons, by_horizon, strict=True))
    }
    figures = {"inputs": len(names), "highest": highest, "beyond": []}
    if beyond.any():
        order = sorted(np.flatnonzero(beyond.any(1)), key=lambda i: -strongest[i].max())
        told = []
        for i in map(int, order):
            c = int(np.argmax(strongest[i] - limit))
            told.append(f"{names[i]} ({strongest[i, c]:.2f} with {horizons[c]} bars, limit {limit[c]:.2f})")
        figures["beyond"] = [names[int(i)] for i in order]
        return Check(
            name, FAIL, f"{len(order)} input(s) know a label: {some(told)}",
            "leave these out, or find the bars after t that they are made of", figures,
        )  # fmt: skip
    c = int(np.argmax(strongest.max(0) / limit))
    most = f"{names[by_horizon[c]]} with {strongest[:, c].max():.2f} of {limit[c]:.2f} at {horizons[c]} bars"
    return Check(name, PASS, f"{len(names)} inputs against each label; the highest is {most}", "", figures)


def table_of(
    names: Sequence[str], found: Correlations, horizons: Sequence[int], shown: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Both figures of the inputs `shown`, by name and horizon, as plain numbers."""
    return {
        names[i]: {
            f"h{h}": {"spearman": float(found.rank[i, c]), "auc": float((found.gini[i, c] + 1) / 2)}
            for c, h in enumerate(horizons)
        }
        for i in shown
    }


def _unit(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns centred and of length 1; constant ones become 0."""
    centred = ranks - ranks.mean(0)
    length = np.sqrt(np.square(centred).sum(0))
    return np.asarray(centred / np.where(length > 0, length, 1))


def _gini(ranks: NDArray[np.float64], up: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(F,) 2 AUC - 1 from the rank sum (Mann and Whitney 1947); 0 with one class."""
    ups, downs = int(up.sum()), int((~up).sum())
    if not ups or not downs:
        return np.zeros(ranks.shape[1])
    rank_sum = ranks[up].sum(0)
    return np.asarray(2 * (rank_sum - ups * (ups + 1) / 2) / (ups * downs) - 1)


Statistics = Mapping[str, Sequence[float]]

TOLERANCE = 1e-5  # of a scale: another machine sums in another order
CALIBRATED = 1e-3  # of a probability: a device of another kind rounds logits otherwise
_STANDARD = 0.005  # so close to mean 0 and deviation 1 a column lies that was standardised on these rows
_HALF = 0.5  # of the columns: one alone may lie there by chance


def statistics(context: Floats, y_ret: Floats) -> dict[str, NDArray[np.float64]]:
    """Means and scales of features (n, F) and returns (n, H); a constant column has the scale 1.

    up_share leaves out returns of exactly 0.
    """
    x, y = context.astype(np.float64), y_ret.astype(np.float64)
    there = ~np.isnan(y)
    count = np.maximum(there.sum(0), 1)
    centre = np.where(there, y, 0).sum(0) / count
    spread = np.sqrt((np.where(there, y - centre, 0) ** 2).sum(0) / count)
    moved = np.maximum((there & (y != 0)).sum(0), 1)
    return {
        "context_mean": x.mean(0),
        "context_std": _or_one(x.std(0)),
        "return_std": _or_one(spread),
        "up_share": (np.nan_to_num(y) > 0).sum(0) / moved,
    }


def distance(stored: Statistics, found: Mapping[str, NDArray[np.float64]]) -> float:
    """The largest difference of two sets of statistics, in units of the scales."""
    scale = {"context_mean": found["context_std"], "context_std": found["context_std"],
             "return_std": found["return_std"], "up_share": np.ones_like(found["up_share"])}  # fmt: skip
    with np.errstate(over="ignore"):  # a stranger's file may hold any number
        far = [np.abs(np.asarray(stored[k]) - found[k]) / s for k, s in scale.items()]
    return max(float(np.nan_to_num(of).max(initial=0)) for of in far)


def check_fitted(
    context: Floats, y_ret: Floats, rows: Mapping[str, NDArray[np.int64]], stored: Statistics
) -> Check:
    """The run's standardisers are those of its train rows, and of no others."""
    name = "standardisers"
    labelled = np.flatnonzero(np.isfinite(y_ret).any(1))
    candidates = {
        "the train rows": rows["train"],
        "all parts together": np.sort(np.concatenate(list(rows.values()))),
        "all labelled rows": labelled,
        "all rows": np.arange(len(context)),
    }
    for part in ("val", "test"):
        if part in rows:
            candidates[f"train and {part}"] = np.sort(np.concatenate([rows["train"], rows[part]]))
    far = {of: distance(stored, statistics(context[at], y_ret[at])) for of, at in candidates.items()}
    figures = {"distance": far}
    if far["the train rows"] <= TOLERANCE:
        other = far["all labelled rows"]
        beside = (
            f"; those of all labelled rows differ by up to {other:.2g} of a scale" if len(rows) > 1 else ""
        )
        return Check(name, PASS, f"equal those fitted again on the train rows{beside}", "", figures)
    nearest = min(far, key=far.__getitem__)
    whose = f"those of {nearest}" if far[nearest] <= TOLERANCE else "those of no part of the data"
    return Check(
        name, FAIL,
        f"fitted.json holds {whose}: {far['the train rows']:.2g} of a scale from those of the train rows",
        "fit every scaler on the train rows alone, and train anew", figures,
    )  # fmt: skip


def check_calibration(stored: Floats, of_val: Floats, of_test: Floats | None) -> Check:
    """The run's calibration is that of the validation part, not of the test part.

    stored, of_val, of_test: (k, H) probabilities of the validation part by each of the three calibrations.
    """
    name = "calibration"
    far = float(np.nan_to_num(np.abs(stored - of_val), nan=1).max(initial=0))
    if far <= CALIBRATED:
        return Check(name, PASS, "equals the one fitted again on validation", "", {"distance": far})
    from_test = of_test is not None and np.abs(stored - of_test).max(initial=0) <= CALIBRATED
    whose = "that of the test part" if from_test else "that of no held-out part"
    return Check(
        name, FAIL,
        f"calibration.json is {whose}: probabilities up to {far:.2g} from those that validation gives",
        "fit the calibration on validation alone, and train anew", {"distance": far},
    )  # fmt: skip


def check_stored_context(context: Floats, train: NDArray[np.int64], names: Sequence[str]) -> Check:
    """Whether a file's context came standardised by statistics that held-out rows took part in."""
    name = "file's own scaling"
    continuous = np.array([len(np.unique(column)) > 10 for column in context.T], np.bool_)
    if not continuous.any() or len(train) == len(context):
        return Check(name, NOT_APPLICABLE, "no held-out rows, or no column that a scaler could have seen")
    x = context[:, continuous].astype(np.float64)
    seen = (_standard(x) & ~_standard(x[train], 3)) | (_between(x) & ~_between(x[train]))
    figures = {"columns": int(continuous.sum()), "scaled_on_all": int(seen.sum())}
    if seen.mean() >= _HALF:
        told = some(np.array(names)[continuous][seen].tolist())
        return Check(
            name, FAIL,
            f"{int(seen.sum())} of {int(continuous.sum())} context columns have mean 0 and deviation 1, or "
            f"fill their range, over all rows and not over train: {told}",
            "the file was scaled by a scaler that saw the test rows: fit it on the train dates, or write raw "
            "features (the run standardises them itself)", figures,
        )  # fmt: skip
    return Check(name, PASS, "no sign that the file's context was scaled by held-out rows", "", figures)


def _standard(x: NDArray[np.float64], times: float = 1) -> NDArray[np.bool_]:
    close = times * _STANDARD
    return np.asarray((np.abs(x.mean(0)) < close) & (np.abs(x.std(0) - 1) < close))


def _between(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    low, high = x.min(0), x.max(0)
    at_low = (np.abs(low) < 1e-6) | (np.abs(low + 1) < 1e-6)
    return np.asarray(at_low & (np.abs(high - 1) < 1e-6))


def _or_one(std: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(std > 1e-12, std, 1.0)
