"""The mean of a difference over seeds and dates, with the uncertainty of both, and tests of many at once.

A score of a part is a sum of shares of its dates (see `shares`), so what a technique changes is a table of
differences, seeds by dates. Another seed would give another row, another test part other columns. The
variance of the mean is that of the dates (moving blocks) plus that of the seeds less what is in both (two-way
clusters: Cameron, Gelbach and Miller 2011), never less than that of the dates; degrees of freedom by
Satterthwaite (1946). A 95% interval fails in 3 to 8% of cases (tests/evaluation/test_paired_size.py).

Legend: S seeds, D dates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stockenh.evaluation.bootstrap import NORMAL, Floats, block_variance, widening

LEVEL = 0.05  # of tests; intervals are of 1 - LEVEL
DEGREES_OF_A_BLOCK = 1.5  # of freedom, of a variance with Bartlett weights
MOST_VALUES = 1000
SEEDS, DATES, BOTH = "seeds", "dates", "seeds and dates"


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval by Student's t; the ends are None where nothing says how it varies.

    n:            values of the mean, one per seed (or round)
    over:         what another sample of would give another mean
    error:        of the mean; dof: its degrees of freedom
    of_one:       the error of a single value, which shrinks with the root of their number
    of_dates:     the error that would stay with any number of seeds; dof_of_dates: its degrees of freedom
    """

    mean: float
    low: float | None = None
    high: float | None = None
    n: int = 1
    over: str = ""
    error: float | None = None
    dof: float = math.inf
    of_one: float = 0.0
    of_dates: float = 0.0
    dof_of_dates: float = math.inf

    @classmethod
    def of(cls, values: Sequence[float], over: str = SEEDS) -> Interval | None:
        """mean ± t(0.975, n - 1) s / sqrt(n), Student (1908); without ends of one value, None of none."""
        if not values:
            return None
        n, mean = len(values), float(np.mean(values))
        if n == 1:
            return cls(mean)
        of_one = float(np.std(values, ddof=1))
        return cls(mean, n=n, over=over, error=of_one / math.sqrt(n), dof=n - 1.0, of_one=of_one)._ended()

    @classmethod
    def of_table(cls, table: Floats, block: int) -> Interval:
        """Of the sums over dates of (S, D) shares. block: dates whose labels overlap.

        Over dates only with one seed, over seeds only where the dates don't fill two blocks.
        """
        seeds, dates = table.shape
        sums = table.sum(axis=1)
        if dates < 2 * block:
            return cls.of(sums.tolist()) or cls(math.nan)
        mean = table.mean(axis=0)
        dof = DEGREES_OF_A_BLOCK * dates / block
        # the interval that the rest of the package takes from blocks, with the tails of Student's t
        wider = (widening(dates, block) * NORMAL / _quantile(dof, LEVEL)) ** 2
        by_dates = wider * float(block_variance(mean, block))
        found = cls(float(sums.mean()), n=seeds, over=DATES, error=math.sqrt(by_dates), dof=dof)
        if seeds == 1:
            return found._ended()
        by_both = wider * float(block_variance(table - mean, block).sum()) / (seeds * (seeds - 1))
        by_seeds = float(sums.var(ddof=1)) / seeds
        fixed = max(by_dates - by_both, 0.0)
        variance = by_dates + max(by_seeds - by_both, 0.0)

        def freedom(of_seeds: float) -> float:
            weight = by_dates**2 / dof + of_seeds**2 / (seeds - 1)
            return max(variance**2 / weight, min(dof, seeds - 1.0)) if weight > 0 else math.inf

        # three seeds may lie close together by chance: that widens no interval of 95%, but the tails
        tails = freedom(by_seeds)
        usual = freedom(by_seeds if by_seeds > by_both else 0.0)
        return replace(
            found,
            over=BOTH,
            error=math.sqrt(variance) * _quantile(usual, LEVEL) / _quantile(tails, LEVEL),
            dof=tails,
            of_one=math.sqrt((variance - fixed) * seeds),
            of_dates=math.sqrt(fixed),
            dof_of_dates=dof,
        )._ended()

    def ends(self, level: float = LEVEL) -> tuple[float | None, float | None]:
        """The ends of the interval that fails in this share of cases."""
        if self.error is None:
            return None, None
        half = _quantile(self.dof, level) * self.error
        return self.mean - half, self.mean + half

    def p(self) -> float | None:
        """Two-sided, of a true mean of 0; None where nothing says how the mean varies."""
        if self.error is None:
            return None
        from scipy.special import stdtr  # scipy.stats takes a second to import

        if self.error == 0:
            return 0.0
        return float(2 * stdtr(self.dof, -abs(self.mean) / self.error))

    def moved(self, by: float) -> Interval:
        """The interval of the mean less a number."""
        return replace(self, mean=self.mean - by)._ended()

    def is_open_by_dates(self, level: float = LEVEL) -> bool:
        """Whether the dates alone leave 0 within, so that no number of seeds would put it outside."""
        return _quantile(self.dof_of_dates, level) * self.of_dates >= abs(self.mean)

    def values_needed(self, level: float = LEVEL) -> int | None:
        """How many seeds (or rounds) would put 0 outside, if mean and spreads stayed as they are.

        None where nothing says how the mean varies, and beyond 1,000.
        """
        if self.error is None or self.mean == 0:
            return None
        fixed = self.of_dates**2
        for n in range(2, MOST_VALUES + 1):
            more = self.of_one**2 / n
            weight = fixed**2 / self.dof_of_dates + more**2 / (n - 1)
            dof = (fixed + more) ** 2 / weight if weight > 0 else math.inf
            if _quantile(dof, level) * math.sqrt(fixed + more) < abs(self.mean):
                return n
        return None

    def _ended(self) -> Interval:
        low, high = self.ends()
        return replace(self, low=low, high=high)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[tuple[float, int]]:
    """(adjusted p, factor) of each: tests of which any is wrongly rejected in at most `level` of cases (Holm
    1979).

    The interval that fails in level / factor of cases leaves out what is rejected, and nothing else.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    found: list[tuple[float, int]] = [(1.0, 1)] * len(p_values)
    highest, factor = 0.0, len(p_values)
    for rank, place in enumerate(order):
        if highest <= level:  # after the first that is kept, the others are kept too
            factor = len(p_values) - rank
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = highest, factor
    return found


def _quantile(dof: float, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(min(dof, 1e9), 1 - level / 2))
