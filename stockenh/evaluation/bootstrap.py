"""The moving-block bootstrap over dates (Künsch 1989): one set of draws for every figure of a part.

Labels overlap in time and symbols move together, so single rows are far from independent: blocks of dates in
a row are drawn, and a date carries all its symbols. Figures that share their draws are paired.

A few blocks say little of their own variance, so intervals are wider than the quantiles of the draws; block
length and widening were chosen by simulation, so that 95% intervals fail in 4 to 7% of cases
(tests/evaluation/test_size.py).

Legend: n rows, D dates, R resamples, k figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVELS = (0.025, 0.975)  # of a 95% interval
HORIZONS_IN_A_BLOCK = 3  # with 2, a sum over a horizon keeps 5/6 of its variance, with 3 8/9
NORMAL = 1.96
_MOST_EXACT = 50_000  # rows
_BINS = 4096
_DATES_AT_ONCE = 256


@dataclass(frozen=True)
class BlockBootstrap:
    """R draws of D dates in blocks, the last of each cut to length.

    starts, ends: (R, blocks) indices of dates, ends exclusive
    """

    dates: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    block: int

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
        return cls(dates, starts, ends, block)

    @property
    def widening(self) -> float:
        """Of an interval from its draws."""
        return widening(self.dates, self.block)

    def interval(
        self, observed: float, resampled: Floats, within: tuple[float, float] = (-np.inf, np.inf)
    ) -> tuple[float | None, float | None]:
        """95% interval of a figure from (R,) draws of it; those that are undefined (NaN) are left out.

        within: the figure's own range
        """
        defined = resampled[np.isfinite(resampled)]
        if not len(defined) or not np.isfinite(observed):
            return None, None
        # their own mean: blocks hold the first and the last dates less often than others
        ends = observed + self.widening * (np.quantile(defined, LEVELS) - defined.mean())
        low, high = np.clip(ends, *within)
        return float(low), float(high)

    def p_above_zero(self, observed: float, resampled: Floats) -> float | None:
        """One-sided p-value of a difference that is not above 0: its draws, centred at 0 (Hall and Wilson
        1991) and widened as the interval is, against the observed one; never below 1 / (R + 1)."""
        defined = resampled[np.isfinite(resampled)]
        if not len(defined) or not np.isfinite(observed):
            return None
        centred = self.widening * (defined - defined.mean())
        # sums in another order differ in their last bit
        reached = int((centred >= observed - 1e-12).sum())
        return (1 + reached) / (1 + len(defined))

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


@dataclass(frozen=True)
class Resampling:
    """How every interval is made. block: dates; None: three times the largest horizon."""

    block: int | None = None
    resamples: int = 1000
    seed: int = 0

    def block_of(self, horizons: Sequence[int]) -> int:
        return block_of(max(horizons)) if self.block is None else self.block

    def draw(self, dates: int, horizons: Sequence[int]) -> BlockBootstrap | None:
        """None where the dates don't fill two blocks."""
        return BlockBootstrap.draw(dates, self.block_of(horizons), self.resamples, self.seed)


def block_of(horizon: int) -> int:
    """Dates that are drawn together, and the bandwidth of a variance, where labels overlap on a horizon."""
    return HORIZONS_IN_A_BLOCK * horizon


def widening(dates: int, block: int) -> float:
    """Of an interval from moving blocks.

    Their variance is the Bartlett estimate whose bandwidth is the block (Künsch 1989), which has critical
    values of its own; half a block's degree of freedom comes on top.
    """
    blocks = dates / block
    return bartlett_critical(1 / blocks) / NORMAL * math.sqrt(blocks / (blocks - 0.5))


def block_variance(per_date: Floats, block: int) -> Floats:
    """(...,) variance that the sums of (..., D) figures have over all draws of `BlockBootstrap`, without
    drawing; the dates must fill a block."""
    dates = per_date.shape[-1]
    blocks = -(-dates // block)
    starts = np.arange(dates - block + 1)
    before = np.concatenate([np.zeros((*per_date.shape[:-1], 1)), np.cumsum(per_date, axis=-1)], axis=-1)

    def of_sums(length: int) -> Floats:
        found: Floats = (before[..., starts + length] - before[..., starts]).var(axis=-1)
        return found

    found: Floats = (blocks - 1) * of_sums(block) + of_sums(dates - (blocks - 1) * block)
    return found


def bartlett_critical(share: float) -> float:
    """Two-sided 5% critical value of a t with Bartlett weights over this share of the dates; 1.96 at 0.

    The share's asymptotics instead of none ("fixed b", Kiefer and Vogelsang 2005, table 1).
    """
    return NORMAL + 2.9694 * share + 0.4160 * share**2 - 0.5324 * share**3


def pair_counts(score: Floats, up: NDArray[np.bool_], date: NDArray[np.int64], dates: int) -> Floats:
    """(D, D) of pairs of a rise at one date and a fall at another, those in the right order, ties half.

    score and up are (n,), date (n,) is the index of each row's date. An AUC (Mann and Whitney 1947) is the
    share of such pairs; with the dates drawn m times each it is m' P m / (m' rises x m' falls), so that one
    matrix gives it for every draw. Of many rows, scores in the same one of 4,096 bins of equal size count as
    ties, which moves an AUC by less than a ten-thousandth.
    """
    if len(score) > _MOST_EXACT:
        return _binned_pair_counts(score, up, date, dates)
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


def _binned_pair_counts(score: Floats, up: NDArray[np.bool_], date: NDArray[np.int64], dates: int) -> Floats:
    edges = np.unique(np.quantile(score, np.arange(1, _BINS) / _BINS))
    place = np.searchsorted(edges, score, side="right") + (len(edges) + 1) * date
    shape = dates, len(edges) + 1
    rises, falls = (
        np.bincount(place[side], minlength=shape[0] * shape[1]).astype(np.float32).reshape(shape)
        for side in (up, ~up)
    )
    passed = np.cumsum(falls, axis=1) - falls / 2
    found: Floats = (rises @ passed.T).astype(np.float64)
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
