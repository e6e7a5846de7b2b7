"""The context features of every bar: timeframe alignment, smart-money structure, technical indicators, panel.

Legend: N bars of all series together, T bars of one series, F features.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.features.market import MARKET_NAMES
from stockenh.data.features.market import market as market_features
from stockenh.data.features.smart_money import SMART_MONEY_NAMES
from stockenh.data.features.smart_money import smart_money as smart_money_features
from stockenh.data.features.technical import TECHNICAL_NAMES, ema
from stockenh.data.features.technical import technical as technical_features
from stockenh.data.processes import grouped, in_processes
from stockenh.errors import ConfigError

# A damaged bar (a price of 1e-100 beside one of 100) must not become infinite in float32. Real values stay
# below about 100.
LARGEST = 1e6
_ALIGNMENT = "align_"
_LARGE = 4_000_000  # bars whose features are computed on all cores: about four seconds of work
_GROUP = 100_000  # bars that a process is asked for at a time

_PATTERN = re.compile(r"([1-9]\d{0,5})(min|h|d|w|mo|q)")
SECONDS = {"min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
MONTHS = {"mo": 1, "q": 3}
FIRST_MONDAY = 4 * 86_400  # 1970-01-05, in seconds from the epoch (which was a Thursday)

# On flat prices an EMA differs from the close by rounding alone (about 1e-16 of it), which must not count
# as a trend; no real trend is this small.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of the features.

    timeframes: one alignment feature each
    lookback:   bars over which smart-money patterns are counted
    market:     also those of the whole panel
    """

    timeframes: tuple[str, ...] = ("1d", "1w", "2w", "1mo", "1q")
    lookback: int = 120
    market: bool = False


def feature_names(settings: FeatureSettings) -> tuple[str, ...]:
    """Names of the F features, in the order of the columns of `context_features`."""
    alignments = tuple(f"{_ALIGNMENT}{timeframe}" for timeframe in settings.timeframes)
    of_panel = MARKET_NAMES if settings.market else ()
    return alignments + SMART_MONEY_NAMES + TECHNICAL_NAMES + of_panel


def feature_family(name: str) -> str:
    """The group of features that a name belongs to; `other context` for a name from elsewhere."""
    if name.startswith(_ALIGNMENT):
        return "timeframe alignment"
    if name in MARKET_NAMES:
        return "market"
    if name in SMART_MONEY_NAMES:
        return "smart-money structure"
    return "technical" if name in TECHNICAL_NAMES else "other context"


def context_features(bars: Bars, settings: FeatureSettings) -> NDArray[np.float32]:
    """Features of every bar of every series, (N, F) float32, in the order of `feature_names`, all finite.

    Row t depends only on bars up to t, bit for bit, and not on the units of price and volume: on those of its
    own series, and with `market` on those of the others.
    """
    features = np.empty((len(bars), len(feature_names(settings))), np.float32)
    if settings.market:
        of_panel = slice(-len(MARKET_NAMES), None)
        features[:, of_panel] = np.clip(market_features(bars, settings.lookback), -LARGEST, LARGEST)
    pieces = [bars.of_series(group) for group in grouped(np.diff(bars.offsets).tolist(), _GROUP)]
    work, begin = partial(_own_features, settings=settings), 0
    for own in in_processes(work, pieces) if len(bars) >= _LARGE else map(work, pieces):
        features[begin : begin + len(own), : own.shape[1]] = own
        begin += len(own)
    return features


def _own_features(bars: Bars, settings: FeatureSettings) -> NDArray[np.float32]:
    """(N, F) those of each series by itself."""
    features = np.empty((len(bars), len(feature_names(replace(settings, market=False)))), np.float32)
    for series in range(len(bars.symbols)):
        rows = bars.rows(series)
        if rows.stop > rows.start:
            features[rows] = _series_features(bars.time[rows], bars.ohlcv[rows], settings)
    return features


def _series_features(
    time: NDArray[np.datetime64], ohlcv: NDArray[np.float64], settings: FeatureSettings
) -> NDArray[np.float64]:
    columns = np.asfortranarray(ohlcv)  # every indicator reads whole columns
    aligned = [alignment(time, columns[:, CLOSE], timeframe) for timeframe in settings.timeframes]
    structure = smart_money_features(columns, settings.lookback)
    features = np.column_stack([*aligned, structure, technical_features(columns)])
    return np.clip(features, -LARGEST, LARGEST)


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
    ends. Days, hours and minutes are counted from 1970-01-01 00:00, months and quarters from
    January 1970. Raises ConfigError for a bad timeframe.
    """
    count, unit = parse_timeframe(timeframe)
    if unit in MONTHS:
        return time.astype("datetime64[M]").astype(np.int64) // (count * MONTHS[unit])
    seconds = time.astype("datetime64[s]").astype(np.int64)
    origin = FIRST_MONDAY if unit == "w" else 0
    return (seconds - origin) // (count * SECONDS[unit])


def alignment(
    time: NDArray[np.datetime64], close: NDArray[np.float64], timeframe: str
) -> NDArray[np.float64]:
    """Trend on one timeframe: (T,) of +1 where close > EMA9 > EMA21, -1 where close < EMA9 < EMA21, else 0.

    The period still forming at bar t counts with the close at t: with E the EMA over the completed periods,
    EMA_t = E + alpha (close_t - E). The first period's EMA is the close itself. There is no minimum history.
    Raises ConfigError for a bad timeframe.
    """
    groups = timeframe_groups(time, timeframe)
    is_last = np.ones(len(groups), dtype=bool)
    is_last[:-1] = groups[1:] != groups[:-1]
    period = np.concatenate([[0], np.cumsum(is_last[:-1])])[: len(groups)]
    period_close = close[is_last]
    fast = _forming_ema(close, period_close, period, span=9)
    slow = _forming_ema(close, period_close, period, span=21)
    margin = TOLERANCE * close
    up = (close - fast > margin) & (fast - slow > margin)
    down = (fast - close > margin) & (slow - fast > margin)
    return up.astype(np.float64) - down


def _forming_ema(
    close: NDArray[np.float64], period_close: NDArray[np.float64], period: NDArray[np.int64], span: int
) -> NDArray[np.float64]:
    completed = ema(period_close, span)
    before = np.where(period > 0, completed[period - 1], close)
    return before + 2.0 / (span + 1) * (close - before)
