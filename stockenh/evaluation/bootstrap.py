"""The moving-block bootstrap over dates (Künsch 1989): one set of draws for every figure of a part.

Labels overlap in time and symbols move together, so single rows are far from independent: blocks of dates in
a row are drawn, and a date carries all its symbols. Figures that share their draws are paired.

Legend: n rows, D dates, R resamples, k figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVELS = (0.025, 0.975)  # of a 95% interval
_DATES_AT_ONCE = 256


@dataclass(frozen=True)
class BlockBootstrap:
    """R draws of D dates in blocks, the last of each cut to length.

    starts, ends: (R, blocks) indices of dates, ends exclusive
    """

    dates: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def draw(cls, dates: int, block: int, resamples: int, seed: int) -> BlockBootstrap | None:
        """None where the dates don't fill two blocks, or resamples is 0."""
        if dates < 2 * block or resamples == 0:
            return None
        blocks = -(-dates // block)
        last = dates - (blocks - 1) * block
        starts = np.random.default_rng(seed).integers(0, dates - block + 1, size=(resamples, blocks))
        ends = starts + block
        ends[:, -1] = starts[:, -1] + last
        return cls(dates, starts, ends)

    def sums(self, per_date: Floats) -> Floats:
        """(k, D) figures of the dates -> (k, R) their sums over the drawn dates."""
        before = np.concatenate([np.zeros((len(per_date), 1)), np.cumsum(per_date, axis=1)], axis=1)
        found: Floats = (before[:, self.ends] - before[:, self.starts]).sum(axis=-1)
        return found

    def counts(self) -> Floats:
        """(R, D) how often each date was drawn."""
        edges = np.zeros((len(self.starts), self.dates + 1))
        draw = np.broadcast_to(np.arange(len(self.starts))[:, None], self.starts.shape)
        np.add.at(edges, (draw, self.starts), 1)
        np.add.at(edges, (draw, self.ends), -1)
        return np.cumsum(edges, axis=1)[:, :-1]


def interval(resampled: Floats) -> tuple[float | None, float | None]:
    """95% percentile interval of (R,) figures; those that a draw left undefined (NaN) are left out."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return None, None
    low, high = np.quantile(defined, LEVELS)
    return float(low), float(high)


def p_above_zero(observed: float, resampled: Floats) -> float | None:
    """One-sided p-value of a difference that is not above 0: its draws, centred at 0 (Hall and Wilson
    1991), against the observed one; never below 1 / (R + 1)."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined) or not np.isfinite(observed):
        return None
    # their own mean, not the observed one: blocks hold the first and the last dates less often than others
    centred = defined - defined.mean()
    # sums in another order differ in their last bit
    reached = int((centred >= observed - 1e-12).sum())
    return (1 + reached) / (1 + len(defined))


def pair_counts(score: Floats, up: NDArray[np.bool_], date: NDArray[np.int64], dates: int) -> Floats:
    """(D, D) of pairs of a rise at one date and a fall at another, those in the right order, ties half.

    score and up are (n,), date (n,) is the index of each row's date. An AUC (Mann and Whitney 1947) is the
    share of such pairs; with the dates drawn m times each it is m' P m / (m' rises x m' falls), so that one
    matrix gives it for every draw.
    """
    rises = np.flatnonzero(up)[np.argsort(date[up], kind="stable")]
    falls = np.flatnonzero(~up)[np.argsort(score[~up], kind="stable")]
    found = np.zeros((dates, dates))
    if not len(rises) or not len(falls):
        return found
    below, at_most = (np.searchsorted(score[falls], score[rises], side) for side in ("left", "right"))
    of_date, begins = np.unique(date[rises], return_index=True)
    for first in range(0, dates, _DATES_AT_ONCE):
        columns = np.arange(first, min(first + _DATES_AT_ONCE, dates))
        passed = np.zeros((len(falls) + 1, len(columns)), np.float32)
        np.cumsum(date[falls][:, None] == columns, axis=0, dtype=np.float32, out=passed[1:])
        won = (passed[below] + passed[at_most]) / 2
        found[of_date[:, None], columns] = np.add.reduceat(won, begins, axis=0, dtype=np.float64)
    return found


def auc_of_draws(pairs: Floats, rises: Floats, falls: Floats, counts: Floats) -> Floats:
    """(R,) AUC of draws; pairs: `pair_counts`; rises and falls (D,) of each date; counts (R, D).

    NaN where a draw holds one class only.
    """
    possible = (counts @ rises) * (counts @ falls)
    won = np.einsum("rd,rd->r", counts @ pairs, counts)
    return ratio(won, possible)


def ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    found: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return found
