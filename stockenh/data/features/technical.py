"""Classical technical indicators of one series, made scale-free.

Every value at bar t is bit-identical whatever follows t: recursions run forward bar by bar, and rolling
sums add the bars of each window in one fixed order. (Differences of a running total would also be causal,
but one huge volume would leave its rounding error in every later bar.)
Legend: T bars of one series.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, HIGH, LOW, VOLUME

TECHNICAL_NAMES = (
    "rsi_14",
    "macd",
    "macd_signal",
    "bb_position",
    "atr",
    "adx_14",
    "obv_trend",
    "vwap_distance",
    "ema_9",
    "ema_21",
    "ema_50",
    "volume_ratio",
)

WILDER = 14
BAND = 20  # bars of the Bollinger band, the VWAP and the volume average
OBV_BARS = 10
LEAST_VOLUME = 1e-3  # share of the mean volume, so that the log of zero volume stays finite
FLAT = 1e-9  # a standard deviation below this share of the price is rounding, not movement

Series = NDArray[np.float64]


def technical(ohlcv: NDArray[np.float64]) -> NDArray[np.float64]:
    """The twelve indicators, (T, 12), in the order of `TECHNICAL_NAMES`.

    EMAs and MACD start at the first bar. Rolling figures use the bars available. RSI is 0.5 and
    ADX 0 until their Wilder averages begin (bars 14 and 27).
    """
    close, volume = ohlcv[:, CLOSE], ohlcv[:, VOLUME]
    macd = ema(close, 12) - ema(close, 26)
    return np.column_stack(
        [
            rsi(close),
            macd / close,
            ema(macd, 9) / close,
            bollinger_position(close),
            average_true_range(ohlcv) / close,
            adx(ohlcv),
            obv_trend(close, volume),
            vwap_distance(ohlcv),
            ema(close, 9) / close - 1.0,
            ema(close, 21) / close - 1.0,
            ema(close, 50) / close - 1.0,
            volume_ratio(volume),
        ]
    )


def rsi(close: Series) -> Series:
    """Wilder's relative strength index over 14 bars as a fraction, (T,).

    Seeded as in TA-Lib: the average gain and loss of bar 14 are the plain means of the first 14 changes.
    0.5 before that, and where the price has not moved at all.
    """
    index = np.full(len(close), 0.5)
    change = np.diff(close)
    if len(change) < WILDER:
        return index
    moves = np.stack([np.maximum(change, 0.0), np.maximum(-change, 0.0)])
    gain, loss = _wilder_mean(moves)
    index[WILDER:] = _ratio(gain, gain + loss, default=0.5)
    return index


def true_range(ohlcv: NDArray[np.float64]) -> Series:
    """Largest of high - low, |high - previous close| and |low - previous close|, (T,)."""
    high, low, close = ohlcv[:, HIGH], ohlcv[:, LOW], ohlcv[:, CLOSE]
    spread = high - low
    spread[1:] = np.maximum(
        spread[1:], np.maximum(np.abs(high[1:] - close[:-1]), np.abs(low[1:] - close[:-1]))
    )
    return spread


def average_true_range(ohlcv: NDArray[np.float64]) -> Series:
    """Wilder's average true range over 14 bars in price units, (T,).

    From bar 14 on as in TA-Lib. Before that the mean of the true ranges so far; bar 0, which has no bar
    before it, counts only for itself.
    """
    ranges = true_range(ohlcv)
    average = ranges.copy()
    average[1:] = rolling_mean(ranges[1:], WILDER)
    if len(ranges) > WILDER:
        average[WILDER:] = _wilder_mean(ranges[1:])
    return average


def adx(ohlcv: NDArray[np.float64]) -> Series:
    """Wilder's average directional index over 14 bars as a fraction, (T,).

    Seeded as in TA-Lib: movements are summed from bars 1 to 13, the index is the mean of bars 14 to 27 at
    bar 27. 0 before that, and where nothing has moved.
    """
    index = np.zeros(len(ohlcv))
    if len(ohlcv) < 2 * WILDER:
        return index
    up, down = np.diff(ohlcv[:, HIGH]), -np.diff(ohlcv[:, LOW])
    moves = np.stack(
        [
            np.where((up > 0) & (up > down), up, 0.0),
            np.where((down > 0) & (down > up), down, 0.0),
            true_range(ohlcv)[1:],
        ]
    )
    plus, minus, ranges = _wilder_sum(moves)
    plus, minus = _ratio(plus, ranges, default=0.0), _ratio(minus, ranges, default=0.0)
    directional = _ratio(np.abs(plus - minus), plus + minus, default=0.0)
    index[2 * WILDER - 1 :] = _wilder_mean(directional)
    return index


def bollinger_position(close: Series) -> Series:
    """Position of the close between the 20-bar bands of 2 population standard deviations, (T,).

    0 is the lower band, 1 the upper; 0.5 where the price is flat.
    """
    bars = np.minimum(np.arange(len(close)) + 1, BAND)
    mean = rolling_mean(close, BAND)
    squares = np.zeros(len(close))
    for lag in range(min(BAND, len(close))):
        squares[lag:] += (close[: len(close) - lag] - mean[lag:]) ** 2
    deviation = np.sqrt(squares / bars)
    moves = deviation > FLAT * mean
    return np.where(moves, 0.5 + (close - mean) / np.where(moves, 4.0 * deviation, 1.0), 0.5)


def obv_trend(close: Series, volume: Series) -> Series:
    """Change of on-balance volume over 10 bars in units of those bars' mean volume, (T,).

    0 where they had no volume. Before bar 10 the change since the first bar.
    """
    signed = np.zeros(len(close))
    signed[1:] = np.sign(np.diff(close)) * volume[1:]
    return _ratio(rolling_sum(signed, OBV_BARS), rolling_mean(volume, OBV_BARS), default=0.0)


def vwap_distance(ohlcv: NDArray[np.float64]) -> Series:
    """Close relative to the 20-bar volume-weighted average of the typical price, minus 1, (T,).

    The typical price is (high + low + close) / 3. 0 where the bars had no volume.
    """
    close, volume = ohlcv[:, CLOSE], ohlcv[:, VOLUME]
    typical = (ohlcv[:, HIGH] + ohlcv[:, LOW] + close) / 3.0
    traded = rolling_sum(volume, BAND)
    vwap = _ratio(rolling_sum(typical * volume, BAND), traded, default=0.0)
    return _ratio(close, vwap, default=1.0) - 1.0


def volume_ratio(volume: Series) -> Series:
    """Log of volume over its 20-bar mean, (T,); at least that of 0.1% of the mean, 0 where all are 0."""
    ratio = _ratio(volume, rolling_mean(volume, BAND), default=1.0)
    return np.log(np.maximum(ratio, LEAST_VOLUME))


def ema(x: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Exponential moving average along the last axis, started at the first value.

    y_0 = x_0, y_t = y_{t-1} + alpha (x_t - y_{t-1}), alpha = 2 / (span + 1).
    """
    from scipy.signal import lfilter  # takes half a second to import, which a cache hit can do without

    if x.shape[-1] == 0:
        return x.copy()
    alpha = 2.0 / (span + 1)
    smoothed, _ = lfilter([alpha], [1.0, alpha - 1.0], x, zi=(1.0 - alpha) * x[..., :1])
    return np.asarray(smoothed)


def rolling_sum(x: Series, bars: int) -> Series:
    """Sum of the last `bars` values, (T,); at the beginning of those available."""
    total = np.zeros(len(x))
    for lag in range(min(bars, len(x))):
        total[lag:] += x[: len(x) - lag]
    return total


def rolling_mean(x: Series, bars: int) -> Series:
    """Mean of the last `bars` values, (T,); at the beginning of those available."""
    return rolling_sum(x, bars) / np.minimum(np.arange(len(x)) + 1, bars)


def _wilder_mean(x: Series) -> Series:
    """y = (13 y + x) / 14 along the last axis, from the mean of the first 14 values on."""
    return _recursion(x[..., WILDER:], x[..., :WILDER].mean(axis=-1), gain=1.0 / WILDER)


def _wilder_sum(x: Series) -> Series:
    """y = 13/14 y + x along the last axis, seeded with the sum of the first 13 values, which is left out."""
    seed = x[..., : WILDER - 1].sum(axis=-1)
    return _recursion(x[..., WILDER - 1 :], seed, gain=1.0)[..., 1:]


def _recursion(x: Series, seed: Series, gain: float) -> Series:
    from scipy.signal import lfilter  # takes half a second to import, which a cache hit can do without

    decay = (WILDER - 1) / WILDER
    smoothed, _ = lfilter([gain], [1.0, -decay], x, zi=decay * seed[..., None])
    return np.concatenate([seed[..., None], smoothed], axis=-1)


def _ratio(numerator: Series, denominator: Series, default: float) -> Series:
    known = denominator > 0
    return np.where(known, numerator / np.where(known, denominator, 1.0), default)
