"""Whether an input says more of a label than anything that is known at that bar can.

Legend: n windows, F inputs, H horizons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.analysis.audit import FAIL, PASS, Check, some

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
