"""What the order of a forecast among the day's symbols is worth: returns by quantile, and how long it lasts.

Legend: n rows (one symbol at one date), D dates, S symbols, Q quantiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, ratio
from stockenh.evaluation.ic import FEWEST_SYMBOLS

Ints = NDArray[np.int64]
NONE = -1  # of a row in no quantile
SHARE, CORRELATION = (0.0, 1.0), (-1.0, 1.0)
ANY = (-np.inf, np.inf)


def day_ranks(values: Floats, date: Ints) -> Floats:
    """(n,) ranks within a date, from 1; equal values share their mean rank."""
    rows = pl.DataFrame({"date": date, "value": values})
    return rows.select(pl.col("value").rank().over("date")).to_series().to_numpy()


def day_quantiles(values: Floats, date: Ints, count: int) -> Ints:
    """(n,) quantile of each row among those of its date: 0 has the lowest values, count - 1 the highest.

    NONE on dates with fewer rows than quantiles, and where all values are the same. Equal values share a
    quantile, and an order turned upside down gives the same sizes.
    """
    if not len(date):
        return np.empty(0, np.int64)
    rows = np.bincount(date)[date]
    ranks = day_ranks(values, date)
    quantile = ((ranks - 0.5) * count / rows).astype(np.int64)
    lowest, highest = _ends_of_days(ranks, date)
    return np.where((rows >= count) & (lowest < highest), quantile, NONE)


def _ends_of_days(values: Floats, date: Ints) -> tuple[Floats, Floats]:
    """(n,) the smallest and the largest value of each row's date."""
    low, high = np.full(date.max() + 1, np.inf), np.full(date.max() + 1, -np.inf)
    np.minimum.at(low, date, values)
    np.maximum.at(high, date, values)
    return low[date], high[date]


def quantile_returns(quantile: Ints, y_ret: Floats, date: Ints, dates: int, count: int) -> Floats:
    """(Q, D) mean return of a quantile's symbols at each date, NaN where it has none; arrays are (n,)."""
    inside = quantile != NONE
    place = quantile[inside] * dates + date[inside]
    size = count * dates
    total: Floats = np.bincount(place, y_ret[inside], minlength=size).astype(np.float64)
    rows: Floats = np.bincount(place, minlength=size).astype(np.float64)
    return ratio(total, rows).reshape(count, dates)


def above_the_day(y_ret: Floats, date: Ints, dates: int) -> Floats:
    """(n,) returns less the mean of their date."""
    (mean,) = quantile_returns(np.zeros_like(date), y_ret, date, dates, 1)
    found: Floats = y_ret - mean[date]
    return found


def quantile_figures(of_days: Floats, draws: BlockBootstrap | None) -> dict[str, Any]:
    """`by_quantile top_less_bottom monotonicity monotonicity_p` of mean returns (Q, D), see
    `quantile_returns`; by_quantile and top_less_bottom: see `mean_of_days`.

    monotonicity: Spearman's correlation of a quantile's number and its mean return, 1 where each earns more
    than the one below it; monotonicity_p: that the smallest of the steps between neighbours is not above 0
    (Patton and Timmermann 2010), by the same draws.
    """
    means = [mean_of_days(row, draws) for row in of_days]
    found: dict[str, Any] = {
        "by_quantile": means,
        "top_less_bottom": mean_of_days(of_days[-1] - of_days[0], draws),
        "monotonicity": None,
        "monotonicity_p": None,
    }
    if any(of["mean"] is None for of in means):
        return found
    values = np.array([of["mean"] for of in means])
    ranks = day_ranks(values, np.zeros(len(values), np.int64))
    if np.ptp(values) > 0:
        found["monotonicity"] = float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])
    if draws is not None:
        resampled = np.diff(_resampled(of_days, draws), axis=0)
        resampled = resampled[:, np.isfinite(resampled).all(axis=0)]
        if resampled.shape[1]:
            centred = (resampled - resampled.mean(axis=1, keepdims=True)).min(axis=0)
            reached = int((draws.widening * centred >= np.diff(values).min() - 1e-12).sum())
            found["monotonicity_p"] = (1 + reached) / (1 + len(centred))
    return found


def mean_of_days(
    values: Floats, draws: BlockBootstrap | None, within: tuple[float, float] = ANY
) -> dict[str, float | int | None]:
    """`mean low high dates` of (D,) figures of dates, NaN where there is none; low, high: 95% by moving-block
    bootstrap."""
    known = np.isfinite(values)
    found: dict[str, float | int | None] = {"mean": None, "low": None, "high": None}
    found["dates"] = int(known.sum())
    if known.any():
        mean = float(values[known].mean())
        found["mean"] = mean
        if draws is not None:
            found["low"], found["high"] = draws.interval(mean, _resampled(values[None], draws)[0], within)
    return found


def _resampled(values: Floats, draws: BlockBootstrap) -> Floats:
    """(k, R) means of (k, D) figures over the drawn dates that have one."""
    known = np.isfinite(values)
    return ratio(draws.sums(np.where(known, values, 0.0)), draws.sums(known.astype(np.float64)))


def share_of_new(member: NDArray[np.bool_], lag: int) -> Floats:
    """(D,) share of each date's members (D, S) that were none `lag` dates before; NaN without either."""
    found = np.full(len(member), np.nan)
    if lag < len(member):
        now, before = member[lag:], member[:-lag]
        new, members = (rows.sum(axis=1).astype(np.float64) for rows in (now & ~before, now))
        share = ratio(new, members)
        found[lag:] = np.where(before.any(axis=1), share, np.nan)
    return found


def rank_autocorrelation(ranks: Floats, lag: int) -> Floats:
    """(D,) correlation of the ranks (D, S) of a date and of `lag` dates before, over the symbols that both
    have (NaN: absent); NaN where these are fewer than three or have one rank."""
    found = np.full(len(ranks), np.nan)
    if lag >= len(ranks):
        return found
    now, before = ranks[lag:], ranks[:-lag]
    both = np.isfinite(now) & np.isfinite(before)
    count = np.maximum(both.sum(axis=1), 1)[:, None]
    centred = [
        np.where(both, x - np.where(both, x, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
        for x in (now, before)
    ]
    spread = np.sqrt(np.square(centred[0]).sum(axis=1) * np.square(centred[1]).sum(axis=1))
    enough = (count[:, 0] >= FEWEST_SYMBOLS) & (spread > 1e-9)
    found[lag:] = np.where(enough, ratio((centred[0] * centred[1]).sum(axis=1), spread), np.nan)
    return found


def by_day_and_symbol(values: Floats, date: Ints, symbol: Ints, shape: tuple[int, int]) -> Floats:
    """(D, S) of the values of rows (n,), NaN where there is no row."""
    found = np.full(shape, np.nan)
    found[date, symbol] = values
    return found
