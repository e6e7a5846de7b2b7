"""Daily cross-sectional information coefficients: whether the symbols forecast to do better than others do.

Legend: n rows (one symbol at one date), D dates, d dates on which an IC is defined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, interval, ratio

FEWEST_SYMBOLS = 3  # of two symbols every correlation is 1 or -1


@dataclass(frozen=True)
class DailyIC:
    """(D,) Pearson's and Spearman's correlation of signal and return at each date; NaN where undefined."""

    ic: Floats
    rank_ic: Floats


def daily_ic(signal: Floats, y_ret: Floats, date: NDArray[np.int64], dates: int) -> DailyIC:
    """Correlations over the symbols of a date; arrays are (n,), date is the place of each row's date.

    Undefined on a date with fewer than 3 symbols, or where the signal or the return is the same for all.
    """
    by_rank = _correlations(_ranks_within(signal, date), _ranks_within(y_ret, date), date, dates)
    return DailyIC(_correlations(signal, y_ret, date, dates), by_rank)


def ic_figures(of_dates: Floats, horizon: int, draws: BlockBootstrap | None) -> dict[str, float | int | None]:
    """`mean low high std icir t lag dates` of daily coefficients (D,), NaN where there is none.

    low, high: 95% by moving-block bootstrap; icir: mean / std, per day and not annualised; t: of the mean, by
    Newey and West (1987), with `lag`. All but dates are None where fewer than two dates have one.
    """
    there = np.isfinite(of_dates)
    values = of_dates[there]
    found: dict[str, float | int | None] = dict.fromkeys(("mean", "low", "high", "std", "icir", "t", "lag"))
    found["dates"] = len(values)
    if len(values) < 2:
        return found
    mean, std = float(values.mean()), float(values.std(ddof=1))
    lag = newey_west_lag(len(values), horizon)
    found |= {"mean": mean, "std": std, "icir": mean / std if std > 0 else None, "lag": lag}
    found["t"] = newey_west_t(values, lag)
    if draws is not None:
        total, count = draws.sums(np.stack([np.where(there, of_dates, 0), there.astype(np.float64)]))
        found["low"], found["high"] = interval(ratio(total, count))
    return found


def newey_west_lag(count: int, horizon: int) -> int:
    """At least horizon - 1, the bars on which returns overlap; the rule of Newey and West (1994), 4 (T /
    100)^(2/9), where that is more; below the count."""
    return min(max(horizon - 1, int(4 * (count / 100) ** (2 / 9))), count - 1)


def newey_west_t(values: Floats, lag: int) -> float | None:
    """t of a mean with Bartlett weights on `lag` autocovariances (Newey and West 1987), the divisor T; None
    where the variance is 0."""
    centred = values - values.mean()
    count = len(values)
    variance = centred @ centred / count
    for k in range(1, lag + 1):
        variance += 2 * (1 - k / (lag + 1)) * (centred[k:] @ centred[:-k]) / count
    if not variance > 1e-30:
        return None
    return float(values.mean() / np.sqrt(variance / count))


def _correlations(x: Floats, y: Floats, date: NDArray[np.int64], dates: int) -> Floats:
    count = np.bincount(date, minlength=dates).astype(np.float64)
    at_least_one = np.maximum(count, 1)

    def centred(values: Floats) -> Floats:
        mean: Floats = np.bincount(date, values, minlength=dates) / at_least_one
        return np.asarray(values - mean[date])

    dx, dy = centred(x), centred(y)
    xy, xx, yy = (np.bincount(date, product, minlength=dates) for product in (dx * dy, dx * dx, dy * dy))
    scale_x, scale_y = (np.bincount(date, v * v, minlength=dates) for v in (x, y))
    # what is left of equal values by rounding is no spread
    there = (count >= FEWEST_SYMBOLS) & (xx > 1e-20 * scale_x) & (yy > 1e-20 * scale_y)
    found: Floats = np.divide(xy, np.sqrt(xx * yy), out=np.full(dates, np.nan), where=there)
    return found


def _ranks_within(values: Floats, date: NDArray[np.int64]) -> Floats:
    """(n,) ranks among the rows of the same date, equal values sharing the mean of theirs."""
    order = np.lexsort((values, date))
    day, value = date[order], values[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (day[1:] != day[:-1]) | (value[1:] != value[:-1])
    group = np.cumsum(fresh) - 1
    middle = np.bincount(group, np.arange(len(order))) / np.maximum(np.bincount(group), 1)
    ranks = np.empty(len(order))
    ranks[order] = middle[group]
    return ranks - np.searchsorted(day, date)
