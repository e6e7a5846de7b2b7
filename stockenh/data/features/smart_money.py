"""Smart-money structure of one series: order blocks, fair value gaps, swing points and breaks.

Every pattern counts only from the bar that confirms it. Legend: T bars of one series.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from stockenh.data.bars import CLOSE, HIGH, LOW, OPEN

SMART_MONEY_NAMES = (
    "bull_ob_count",
    "bear_ob_count",
    "bull_fvg_count",
    "bear_fvg_count",
    "nearest_ob_distance",
    "nearest_fvg_distance",
    "swing_high_distance",
    "swing_low_distance",
    "bos_bull",
    "bos_bear",
    "choch_bull",
    "choch_bear",
)

BLOCK_MOVE = 0.02  # how far beyond the block candle the next bar must close
SWING_REACH = 20  # bars on either side of a swing point
_CHUNK = 1024  # bars processed at once, which bounds the memory of long series

Mask = NDArray[np.bool_]
Series = NDArray[np.float64]


def smart_money(ohlcv: NDArray[np.float64], lookback: int) -> NDArray[np.float64]:
    """The twelve structure features, (T, 12), in the order of `SMART_MONEY_NAMES`.

    Counts and nearest levels use the patterns all of whose bars lie in the last `lookback` bars. Swing levels
    and the previous break may be older. Distances are (level - close) / close, and 0 where there is no level.
    """
    close = ohlcv[:, CLOSE]
    bull_ob, bear_ob, ob_level = order_blocks(ohlcv)
    bull_fvg, bear_fvg, fvg_level = fair_value_gaps(ohlcv)
    swing_high, swing_low = swing_levels(ohlcv)
    bull, bear = breaks(close, swing_high, swing_low)
    turns_bull, turns_bear = changes_of_character(bull, bear)
    ob_reach, fvg_reach = lookback - 1, lookback - 2  # a block spans two bars, a gap three
    return np.column_stack(
        [
            _count(bull_ob, ob_reach),
            _count(bear_ob, ob_reach),
            _count(bull_fvg, fvg_reach),
            _count(bear_fvg, fvg_reach),
            _nearest_distance(ob_level, close, ob_reach),
            _nearest_distance(fvg_level, close, fvg_reach),
            _distance(swing_high, close),
            _distance(swing_low, close),
            bull,
            bear,
            turns_bull,
            turns_bear,
        ]
    ).astype(np.float64)


def order_blocks(ohlcv: NDArray[np.float64]) -> tuple[Mask, Mask, Series]:
    """Bullish and bearish order blocks, each marked at the bar that confirms it.

    Candle i is a bullish block where close < open and the next bar closes more than 2% above its high;
    bearish mirrored. Returns two (T,) masks, true at i + 1, and the (T,) levels (middle of the block
    candle; NaN where no block is confirmed).
    """
    opening, high, low, close = (ohlcv[:-1, c] for c in (OPEN, HIGH, LOW, CLOSE))
    next_close = ohlcv[1:, CLOSE]
    bull = _at_end((close < opening) & (next_close > (1.0 + BLOCK_MOVE) * high), len(ohlcv))
    bear = _at_end((close > opening) & (next_close < (1.0 - BLOCK_MOVE) * low), len(ohlcv))
    level = np.full(len(ohlcv), np.nan)
    level[1:] = (high + low) / 2
    return bull, bear, np.where(bull | bear, level, np.nan)


def fair_value_gaps(ohlcv: NDArray[np.float64]) -> tuple[Mask, Mask, Series]:
    """Bullish and bearish fair value gaps, each marked at the last of its three bars.

    Bullish at i where low[i] > high[i-2], bearish where high[i] < low[i-2]. Returns two (T,) masks and
    the (T,) levels (middle of the gap; NaN where there is none).
    """
    high, low = ohlcv[:, HIGH], ohlcv[:, LOW]
    bull = _at_end(low[2:] > high[:-2], len(ohlcv))
    bear = _at_end(high[2:] < low[:-2], len(ohlcv))
    level = np.full(len(ohlcv), np.nan)
    level[2:] = np.where(bull[2:], low[2:] + high[:-2], high[2:] + low[:-2]) / 2
    return bull, bear, np.where(bull | bear, level, np.nan)


def swing_levels(ohlcv: NDArray[np.float64]) -> tuple[Series, Series]:
    """The last confirmed swing high and swing low at each bar, (T,) each; NaN before the first.

    A swing high at i is the highest high of the bars i-20 to i+20, all of them present. It counts from i+20
    on.
    """
    high, low = ohlcv[:, HIGH], ohlcv[:, LOW]
    width = 2 * SWING_REACH + 1
    is_high = (high == maximum_filter1d(high, width)) if len(high) >= width else np.zeros(len(high), bool)
    is_low = (low == minimum_filter1d(low, width)) if len(low) >= width else np.zeros(len(low), bool)
    return _last_confirmed(high, is_high), _last_confirmed(low, is_low)


def breaks(close: Series, swing_high: Series, swing_low: Series) -> tuple[Mask, Mask]:
    """Breaks of structure, two (T,) masks: where the close crosses the last confirmed swing level.

    Bullish where close[t-1] <= swing high < close[t], bearish where close[t-1] >= swing low > close[t].
    """
    before, now = close[:-1], close[1:]
    bull = (before <= swing_high[1:]) & (swing_high[1:] < now)
    bear = (before >= swing_low[1:]) & (swing_low[1:] > now)
    return _at_end(bull, len(close)), _at_end(bear, len(close))


def changes_of_character(bull: Mask, bear: Mask) -> tuple[Mask, Mask]:
    """Breaks in the direction opposite to the previous break, two (T,) masks (bullish, bearish)."""
    direction = bull.astype(np.int64) - bear
    here = np.flatnonzero(direction)
    turn = np.zeros(len(direction), dtype=bool)
    turn[here[1:]] = direction[here[1:]] != direction[here[:-1]]
    return bull & turn, bear & turn


def _at_end(found: Mask, length: int) -> Mask:
    mask = np.zeros(length, dtype=bool)
    if len(found):
        mask[length - len(found) :] = found
    return mask


def _last_confirmed(price: Series, is_swing: Mask) -> Series:
    seen = np.arange(len(price)) - SWING_REACH  # the only bar that bar t can newly confirm
    fresh = (seen >= SWING_REACH) & is_swing[np.maximum(seen, 0)]
    last = np.maximum.accumulate(np.where(fresh, seen, -1))
    return np.where(last >= 0, price[last], np.nan)


def _count(found: Mask, reach: int) -> NDArray[np.int64]:
    total: NDArray[np.int64] = np.concatenate([np.zeros(reach, np.int64), np.cumsum(found)])
    return total[reach:] - total[: len(found)]


def _distance(level: Series, close: Series) -> Series:
    return np.nan_to_num((level - close) / close, nan=0.0)


def _nearest_distance(level: Series, close: Series, reach: int) -> Series:
    """Signed distance to the nearest level of the last `reach` bars; of two equally near, the later."""
    missing = np.where(np.isnan(level), np.inf, level)
    padded = np.concatenate([np.full(reach - 1, np.inf), missing])
    latest_first = sliding_window_view(padded, reach)[:, ::-1]
    nearest = np.empty(len(close))
    for start in range(0, len(close), _CHUNK):
        rows = latest_first[start : start + _CHUNK]
        pick = np.abs(rows - close[start : start + _CHUNK, None]).argmin(axis=1)
        nearest[start : start + _CHUNK] = rows[np.arange(len(rows)), pick]
    return np.where(np.isinf(nearest), 0.0, (nearest - close) / close)
