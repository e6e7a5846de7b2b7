"""Trend alignment of one series on longer timeframes: which way close, EMA9 and EMA21 are stacked.

Legend: T bars of one series.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from stockenh.errors import ConfigError

_PATTERN = re.compile(r"([1-9]\d*)(min|h|d|w|mo|q)")
_SECONDS = {"min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_MONTHS = {"mo": 1, "q": 3}
_FIRST_MONDAY = 4 * 86_400  # 1970-01-05, in seconds from the epoch (which was a Thursday)

# On flat prices an EMA differs from the close by rounding alone (about 1e-16 of it). Without a
# tolerance that noise would be read as a trend; no real trend is as small as this.
_TOLERANCE = 1e-9


def parse_timeframe(timeframe: str) -> tuple[int, str]:
    """Splits a timeframe such as `1d`, `2w`, `1mo`, `1q`, `4h` or `15min` into count and unit.

    Raises ConfigError for anything else.
    """
    match = _PATTERN.fullmatch(timeframe)
    if match is None:
        raise ConfigError(
            f"data.timeframes: {timeframe!r} is not a timeframe; "
            "write a count and one of min, h, d, w, mo, q, such as 4h, 1d, 2w, 1mo or 1q"
        )
    return int(match[1]), match[2]


def timeframe_groups(time: NDArray[np.datetime64], timeframe: str) -> NDArray[np.int64]:
    """Number of the calendar period that each bar belongs to, (T,), never decreasing.

    Weeks start on Monday and are counted from 1970-01-05; a weekend session belongs to the week that it
    closes. Days, hours and minutes are counted from 1970-01-01 00:00, months and quarters from
    January 1970. Raises ConfigError for a bad timeframe.
    """
    count, unit = parse_timeframe(timeframe)
    if unit in _MONTHS:
        return time.astype("datetime64[M]").astype(np.int64) // (count * _MONTHS[unit])
    seconds = time.astype("datetime64[s]").astype(np.int64)
    origin = _FIRST_MONDAY if unit == "w" else 0
    return (seconds - origin) // (count * _SECONDS[unit])


def ema(x: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Exponential moving average along the last axis, started at the first value.

    y_0 = x_0, y_t = y_{t-1} + alpha (x_t - y_{t-1}), alpha = 2 / (span + 1).
    """
    from scipy.signal import lfilter  # half a second to import, which a cache hit need not pay

    if x.shape[-1] == 0:
        return x.copy()
    alpha = 2.0 / (span + 1)
    smoothed, _ = lfilter([alpha], [1.0, alpha - 1.0], x, zi=(1.0 - alpha) * x[..., :1])
    return np.asarray(smoothed)


def alignment(
    time: NDArray[np.datetime64], close: NDArray[np.float64], timeframe: str
) -> NDArray[np.float64]:
    """Trend on one timeframe: (T,) of +1 where close > EMA9 > EMA21, -1 where close < EMA9 < EMA21, else 0.

    The period that is still forming at bar t counts with the close at t: with E the EMA over the
    completed periods, EMA_t = E + alpha (close_t - E). The first period's EMA is the close itself.
    There is no minimum history. Raises ConfigError for a bad timeframe.
    """
    groups = timeframe_groups(time, timeframe)
    is_last = np.ones(len(groups), dtype=bool)
    is_last[:-1] = groups[1:] != groups[:-1]
    period = np.concatenate([[0], np.cumsum(is_last[:-1])])[: len(groups)]
    period_close = close[is_last]
    fast = _forming_ema(close, period_close, period, span=9)
    slow = _forming_ema(close, period_close, period, span=21)
    margin = _TOLERANCE * close
    up = (close - fast > margin) & (fast - slow > margin)
    down = (fast - close > margin) & (slow - fast > margin)
    return up.astype(np.float64) - down


def _forming_ema(
    close: NDArray[np.float64], period_close: NDArray[np.float64], period: NDArray[np.int64], span: int
) -> NDArray[np.float64]:
    completed = ema(period_close, span)
    before = np.where(period > 0, completed[period - 1], close)
    return before + 2.0 / (span + 1) * (close - before)
