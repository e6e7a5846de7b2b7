"""Features of the whole panel: what all symbols did up to a bar, and where a symbol stands among them.

A day here is all bars with exactly the same time. Row t depends on bars up to t only, bit for bit: sums of a
day run in the order of the series, and rolling sums as in `technical`.
Legend: N bars of all series together, T bars of one series, D days.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.features.technical import ema, rolling_sum

MARKET_NAMES = (
    "market_return_1",
    "market_return_5",
    "market_return_20",
    "market_dispersion",
    "market_above_ema_50",
    "market_return_rank",
    "market_volatility_rank",
    "market_beta",
)
RANK_BARS = 20  # of the return and the volatility that symbols are ranked by

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


def market(bars: Bars, lookback: int) -> Floats:
    """The panel's features at every bar, (N, 8), in the order of `MARKET_NAMES`.

    Means over the day's symbols of their returns over 1, 5 and 20 bars, and the standard deviation of those
    over 1; the share of symbols whose close is above its EMA of 50 bars; the symbol's rank in the day by its
    return and by its volatility over 20 bars, from -1 to 1; and its beta, the slope of its returns on the
    day's mean over the last `lookback` bars. Where a series has fewer bars, those available count; its first
    bar has no return and is left out of the means.
    """
    day = np.unique(bars.time, return_inverse=True)[1].reshape(-1)
    own = np.empty((len(bars), 5))
    known = np.ones(len(bars), np.bool_)
    for rows in _series(bars):
        own[rows] = _of_series(bars.ohlcv[rows, CLOSE])
        known[rows.start] = False
    one, five, twenty, above, volatility = own.T
    means = [_mean(column, day, known)[day] for column in (one, five, twenty)]
    spread = np.sqrt(_mean((one - means[0]) ** 2, day, known))[day]
    beta = np.empty(len(bars))
    for rows in _series(bars):
        beta[rows] = _slope(one[rows], means[0][rows], lookback)
    everyone = np.ones_like(known)
    ranks = [_rank(column, day) for column in (twenty, volatility)]
    return np.column_stack([*means, spread, _mean(above, day, everyone)[day], *ranks, beta])


def _series(bars: Bars) -> list[slice]:
    """The rows of every series that has any."""
    return [rows for s in range(len(bars.symbols)) if (rows := bars.rows(s)).stop > rows.start]


def _of_series(close: Floats) -> Floats:
    """(T, 5) returns over 1, 5 and 20 bars, whether the close is above its EMA, volatility; 0 at bar 0."""
    position = np.arange(len(close))
    returns = [close / close[np.maximum(position - bars, 0)] - 1 for bars in (1, 5, 20)]
    counted = np.clip(position, 1, RANK_BARS)
    mean = rolling_sum(returns[0], RANK_BARS) / counted
    squares = rolling_sum(returns[0] ** 2, RANK_BARS) / counted
    volatility = np.sqrt(np.maximum(squares - mean**2, 0))
    return np.column_stack([*returns, close > ema(close, 50), volatility])


def _mean(values: Floats, day: Numbers, known: NDArray[np.bool_]) -> Floats:
    """(D,) mean of the known values of each day; 0 on a day without one."""
    count = np.bincount(day, known)
    return np.asarray(np.bincount(day, np.where(known, values, 0)) / np.maximum(count, 1))


def _rank(values: Floats, day: Numbers) -> Floats:
    """(N,) rank within the day from -1 to 1, 0 in the middle; equal values share their mean rank."""
    rank, size = pl.col("value").rank("average").over("day"), pl.len().over("day")
    frame = pl.DataFrame({"value": values, "day": day})
    return frame.select((2 * rank - 1) / size - 1).to_series().to_numpy()


def _slope(own: Floats, of_panel: Floats, bars: int) -> Floats:
    """(T,) slope of a symbol's returns on the panel's over the last `bars` bars; 0 for a flat panel."""
    counted = np.clip(np.arange(len(own)), 1, bars)
    sums = [rolling_sum(x, bars) for x in (own, of_panel, own * of_panel, of_panel**2)]
    covariance = sums[2] - sums[0] * sums[1] / counted
    variance = sums[3] - sums[1] ** 2 / counted
    moves = variance > 1e-12 * np.maximum(sums[3], 1e-300)
    return np.divide(covariance, variance, out=np.zeros(len(own)), where=moves)
