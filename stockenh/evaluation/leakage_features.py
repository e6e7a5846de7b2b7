"""Leaks into inputs and statistics: inputs that hold a label, scalers and calibrations fitted on later rows.

Legend: n windows, F inputs, H horizons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.leakage import FAIL, NOT_APPLICABLE, PASS, WARN, Check, Rows, first_few

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Statistics = Mapping[str, Sequence[float]]

MOST_ROWS = 8000  # evenly spread over train: more hardly narrow an error that overlapping labels set
TOLERANCE = 1e-5  # of a scale: another machine sums in another order
CALIBRATED = 1e-3  # of a probability: a device of another kind rounds logits otherwise
_CERTAIN = 0.99  # a copy of a label has 1, however few the rows
_ERRORS = 0.01  # chance of one false alarm in a whole audit of inputs that hold no label
_STANDARD = 0.005  # a column standardised on these rows lies as close to mean 0 and deviation 1
_HALF = 0.5  # of the columns: one alone may lie there by chance


@dataclass(frozen=True)
class Correlations:
    """rank and gini, both (F, H): Spearman's correlation with the return, and 2 AUC - 1 for its direction;
    0 where a column is constant or not finite."""

    rank: Doubles
    gini: Doubles

    @property
    def strongest(self) -> Doubles:
        """(F, H) the larger of the two sizes."""
        return np.asarray(np.maximum(np.abs(self.rank), np.abs(self.gini)))

    def table(
        self, names: Sequence[str], horizons: Sequence[int], shown: Sequence[int]
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Both figures of the inputs `shown`, by name and horizon, as plain numbers."""
        return {
            names[i]: {
                f"h{h}": {"spearman": float(self.rank[i, c]), "auc": float((self.gini[i, c] + 1) / 2)}
                for c, h in enumerate(horizons)
            }
            for i in shown
        }


def correlations(inputs: Floats, y_ret: Floats) -> Correlations:
    """Of every input (n, F) with every return (n, H), rows without that label left out."""
    from scipy.stats import rankdata

    rank = np.zeros((inputs.shape[1], y_ret.shape[1]))
    gini = np.zeros_like(rank)
    for column, y in enumerate(y_ret.T):
        labelled = np.isfinite(y)
        if labelled.sum() < 3:
            continue
        ranks = _unit(rankdata(inputs[labelled], axis=0))
        rank[:, column] = ranks.T @ _unit(rankdata(y[labelled])[:, None])[:, 0]
        moved = labelled & (y != 0)
        gini[:, column] = _gini(rankdata(inputs[moved], axis=0), y[moved] > 0)
    return Correlations(np.nan_to_num(rank), np.nan_to_num(gini))


def _unit(ranks: Doubles) -> Doubles:
    """Columns centred and of length 1; constant ones become 0."""
    centred = ranks - ranks.mean(0)
    length = np.linalg.norm(centred, axis=0)
    return np.asarray(centred / np.where(length > 0, length, 1))


def _gini(ranks: Doubles, up: NDArray[np.bool_]) -> Doubles:
    """(F,) 2 AUC - 1 from the rank sum (Mann and Whitney 1947); 0 with one class."""
    ups, downs = int(up.sum()), int((~up).sum())
    if not ups or not downs:
        return np.zeros(ranks.shape[1])
    return np.asarray(2 * (ranks[up].sum(0) - ups * (ups + 1) / 2) / (ups * downs) - 1)


def correlation_limits(
    plausible: float,
    y_ret: Floats,
    dates: NDArray[np.datetime64],
    horizons: Sequence[int],
    tests: int,
    best_prob: Floats | None = None,
) -> Doubles:
    """(H,) the correlation from which on an input is implausible.

    plausible: more than an honest input has. On little data the limit rises to what chance gives inputs that
    hold no label: 1% for one false alarm among `tests`, by Fisher's transform. Labels of h bars overlap and
    symbols move together, so h dates count as one observation, the worst case of Bartlett (1946). Where the
    best forecast is known (best_prob, (n, H)) an input may have as much as that, and the error of both.
    """
    from scipy.stats import norm

    z = float(norm.isf(_ERRORS / 2 / max(tests, 1)))
    found = []
    for column, horizon in enumerate(horizons):
        labelled = np.isfinite(y_ret[:, column])
        observations = len(np.unique(dates[labelled])) / horizon
        error = z / math.sqrt(observations - 3) if observations > 4 else math.inf
        limit = max(plausible, math.tanh(error))
        if best_prob is not None and labelled.sum() >= 3:
            own = correlations(best_prob[labelled, column, None], y_ret[labelled, column, None])
            best = min(float(own.strongest.max()), _CERTAIN)
            limit = max(limit, math.tanh(math.atanh(best) + error))
        found.append(min(limit, _CERTAIN))
    return np.array(found)


def check_correlations(
    names: Sequence[str], found: Correlations, limit: Doubles, horizons: Sequence[int]
) -> Check:
    """No input lies beyond its horizon's limit."""
    name, strongest = "inputs and labels", found.strongest
    beyond = np.flatnonzero((strongest > limit).any(1))
    beyond = beyond[np.argsort(-strongest[beyond].max(1), kind="stable")]
    highest = {
        f"h{h}": {"input": names[i], "correlation": float(strongest[i, c]), "limit": float(limit[c])}
        for c, (h, i) in enumerate(zip(horizons, strongest.argmax(0).tolist(), strict=True))
    }
    figures = {"inputs": len(names), "highest": highest, "beyond": [names[i] for i in beyond.tolist()]}
    if len(beyond):
        columns = np.argmax(strongest[beyond] - limit, axis=1)
        listed = [
            f"{names[i]} ({strongest[i, c]:.2f} with {horizons[c]} bars, limit {limit[c]:.2f})"
            for i, c in zip(beyond.tolist(), columns.tolist(), strict=True)
        ]
        return Check(
            name, FAIL, f"{len(beyond)} input(s) hold a label: {first_few(listed)}",
            "leave these out, or find the bars after t that they are made of", figures,
        )  # fmt: skip
    c = int(np.argmax(strongest.max(0) / limit))
    most = highest[f"h{horizons[c]}"]
    measured = (
        f"{len(names)} inputs against each label; the highest is {most['input']} with "
        f"{most['correlation']:.2f} of {limit[c]:.2f} at {horizons[c]} bars"
    )
    return Check(name, PASS, measured, "", figures)


def check_own_columns(
    names: Sequence[str],
    used: Floats,
    dated: Floats,
    returns: Floats,
    dates: NDArray[np.datetime64],
    horizons: Sequence[int],
    plausible: float,
    lag: int,
) -> Check:
    """No own column holds a return of bars after it, as the models see it or by the dates of its rows.

    used, dated: (n, F) what the models see, and what the rows say without the lag, NaN where missing
    returns: (n, H) over the next `horizons` bars, of 1 bar too, which shows a copy of tomorrow's return best
    Each column is judged on the rows where it is known.
    """
    name, tests, figures = "own columns", 2 * len(names) * len(horizons), dict[str, Any]()
    found = dict[str, list[tuple[float, str]]](used=[], dated=[])
    highest = (0.0, "")
    for which, inputs in (("used", used), ("dated", dated)):
        for column, x in zip(names, inputs.T, strict=True):
            known = ~np.isnan(x)
            y, when = returns[known], dates[known]
            strongest = correlations(x[known, None], y).strongest[0]
            limit = correlation_limits(plausible, y, when, horizons, tests)
            figures.setdefault(which, {})[column] = {
                f"h{h}": {"correlation": float(c), "limit": float(most)}
                for h, c, most in zip(horizons, strongest, limit, strict=True)
            }
            at = int(np.argmax(strongest - limit))
            shown = f"{column} ({strongest[at]:.2f} with {horizons[at]} bars, limit {limit[at]:.2f})"
            highest = max(highest, (float(strongest.max()), column))
            if strongest[at] > limit[at]:
                found[which].append((-float(strongest[at]), shown))
    if found["used"]:
        return Check(
            name, FAIL, f"own columns hold a label: {first_few(shown for _, shown in sorted(found['used']))}",
            "date its rows by when the value was known, or raise data.extra.lag", figures,
        )  # fmt: skip
    if found["dated"]:
        listed = first_few(shown for _, shown in sorted(found["dated"]))
        return Check(
            name, WARN,
            f"rows hold what was not known at their dates: {listed}; data.extra.lag={lag} keeps it out of "
            f"the inputs",
            "date its rows by when the value was known; with a shorter lag this is a leak", figures,
        )  # fmt: skip
    measured = (
        f"{len(names)} inputs against returns of {', '.join(map(str, horizons))} bars, with the lag of {lag} "
        f"and without; the highest is {highest[1]} with {highest[0]:.2f}"
    )
    return Check(name, PASS, measured, "", figures)


def statistics(context: Floats, y_ret: Floats, y_dir: Floats | None = None) -> dict[str, Doubles]:
    """Means and scales of features (n, F) and returns (n, H); a constant column has the scale 1.

    up_share is of the sign of y_dir (None: y_ret) and leaves out 0.
    """
    y_dir = y_ret if y_dir is None else y_dir
    x, y, side = (array.astype(np.float64) for array in (context, y_ret, y_dir))
    context_mean, deviation = _known_moments(x)
    labelled = ~np.isnan(y)
    count = np.maximum(labelled.sum(0), 1)
    mean = np.where(labelled, y, 0).sum(0) / count
    spread = np.sqrt((np.where(labelled, y - mean, 0) ** 2).sum(0) / count)
    moved = np.maximum((labelled & (side != 0)).sum(0), 1)
    return {
        "context_mean": context_mean,
        "context_std": np.where(deviation > 1e-12, deviation, 1.0),
        "return_std": np.where(spread > 1e-12, spread, 1.0),
        "up_share": (np.nan_to_num(side) > 0).sum(0) / moved,
    }


def _known_moments(x: Doubles) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation (F,) of what is not NaN in each column (n, F); 0 and 1 without any."""
    mean, deviation = x.mean(0), x.std(0)
    for column in np.flatnonzero(np.isnan(mean)):
        known = x[~np.isnan(x[:, column]), column]
        mean[column], deviation[column] = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
    return mean, deviation


def distance(stored: Statistics, found: Mapping[str, Doubles]) -> float:
    """The largest difference of two sets of statistics, in units of the scales."""
    scale = {"context_mean": found["context_std"], "context_std": found["context_std"],
             "return_std": found["return_std"], "up_share": np.ones_like(found["up_share"])}  # fmt: skip
    with np.errstate(over="ignore"):  # an untrusted file may hold any number
        differences = [np.abs(np.asarray(stored[k]) - found[k]) / s for k, s in scale.items()]
    return max(float(np.nan_to_num(d).max(initial=0)) for d in differences)


def check_fitted(
    context: Floats, y_ret: Floats, rows: Rows, stored: Statistics, y_dir: Floats | None = None
) -> Check:
    """The run's standardisers are those of its train rows, and of no others; y_dir: None for y_ret."""
    y_dir = y_ret if y_dir is None else y_dir
    name, train = "standardisers", "the train rows"
    candidates = {
        train: rows["train"],
        "all parts together": np.sort(np.concatenate(list(rows.values()))),
        "all labelled rows": np.flatnonzero(np.isfinite(y_ret).any(1)),
        "all rows": np.arange(len(context)),
    }
    for part in ("val", "test"):
        if part in rows:
            candidates[f"train and {part}"] = np.sort(np.concatenate([rows["train"], rows[part]]))
    far = {
        label: distance(stored, statistics(context[i], y_ret[i], y_dir[i])) for label, i in candidates.items()
    }
    figures = {"distance": far}
    if far[train] <= TOLERANCE:
        other = f"; those of all labelled rows differ by up to {far['all labelled rows']:.2g} of a scale"
        beside = other if len(rows) > 1 else ""
        return Check(name, PASS, f"equal those fitted again on the train rows{beside}", "", figures)
    nearest = min(far, key=far.__getitem__)
    whose = f"those of {nearest}" if far[nearest] <= TOLERANCE else "those of no part of the data"
    return Check(
        name, FAIL,
        f"fitted.json holds {whose}: {far[train]:.2g} of a scale from those of the train rows",
        "fit every scaler on the train rows alone, and train anew", figures,
    )  # fmt: skip


def check_calibration(stored: Floats, of_val: Sequence[Floats], of_test: Sequence[Floats]) -> Check:
    """The run's calibration is one of those of the validation part, not of the test part.

    stored, of_val, of_test: (k, H) probabilities of the validation part, by the run's calibration and by
    those that this version and earlier ones fit on validation and on test.
    """

    def distance(others: Sequence[Floats]) -> float:
        return min(
            (float(np.nan_to_num(np.abs(stored - x), nan=1).max(initial=0)) for x in others), default=1
        )

    name, far = "calibration", distance(of_val)
    if far <= CALIBRATED:
        return Check(name, PASS, "equals the one fitted again on validation", "", {"distance": far})
    whose = "that of the test part" if distance(of_test) <= CALIBRATED else "that of no held-out part"
    return Check(
        name, FAIL,
        f"calibration.json is {whose}: probabilities up to {far:.2g} from those of a fit on validation",
        "fit the calibration on validation alone, and train anew", {"distance": far},
    )  # fmt: skip


def check_stored_context(context: Floats, train: NDArray[np.int64], names: Sequence[str]) -> Check:
    """Whether a file's context was standardised by statistics that include held-out rows."""
    name = "file's own scaling"
    continuous = np.array([len(np.unique(column)) > 10 for column in context.T], np.bool_)
    if not continuous.any() or len(train) == len(context):
        return Check(name, NOT_APPLICABLE, "no held-out rows, or no column that a scaler could have seen")
    x, total = context[:, continuous].astype(np.float64), int(continuous.sum())
    seen = (_standard(x) & ~_standard(x[train], 3)) | (_fills_range(x) & ~_fills_range(x[train]))
    figures = {"columns": total, "scaled_on_all": int(seen.sum())}
    if seen.mean() >= _HALF:
        listed = first_few(np.array(names)[continuous][seen].tolist())
        return Check(
            name, FAIL,
            f"{int(seen.sum())} of {total} context columns have mean 0 and deviation 1, or fill their range, "
            f"over all rows and not over train: {listed}",
            "the file was scaled by a scaler that saw the test rows: fit it on the train dates, or write raw "
            "features (the run standardises them itself)", figures,
        )  # fmt: skip
    return Check(name, PASS, "no sign that the file's context was scaled by held-out rows", "", figures)


def _standard(x: Doubles, times: float = 1) -> NDArray[np.bool_]:
    close = times * _STANDARD
    return np.asarray((np.abs(x.mean(0)) < close) & (np.abs(x.std(0) - 1) < close))


def _fills_range(x: Doubles) -> NDArray[np.bool_]:
    """Whether columns lie from 0 or -1 to 1."""
    low, high = x.min(0), x.max(0)
    low_end = np.minimum(np.abs(low), np.abs(low + 1))
    return np.asarray((low_end < 1e-6) & (np.abs(high - 1) < 1e-6))
