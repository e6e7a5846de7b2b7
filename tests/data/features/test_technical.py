import math

import numpy as np
import pytest
import talib
from random_bars import random_series, smooth_series

from stockenh.data.features.technical import (
    TECHNICAL_NAMES,
    adx,
    average_true_range,
    bollinger_position,
    ema,
    obv_trend,
    rsi,
    technical,
    vwap_distance,
)


def indicators(ohlcv):
    return dict(zip(TECHNICAL_NAMES, technical(ohlcv).T, strict=True))


def test_volume_weighted_price_and_volume_ratio_by_hand():
    ohlcv = np.array([[10, 12, 9, 9, 0], [9, 11, 7, 9, 100], [9, 15, 9, 12, 300]], dtype=float)
    # typical prices 9 and 12 with weights 100 and 300: 11.25
    np.testing.assert_allclose(vwap_distance(ohlcv), [0, 0, 12 / 11.25 - 1])
    ohlcv[:, 4] = [0, 6, 0]
    np.testing.assert_allclose(indicators(ohlcv)["volume_ratio"], [0, math.log(6 / 3), math.log(1e-3)])


def test_a_flat_price_is_neutral_and_a_huge_volume_leaves_no_rounding_error_behind():
    ohlcv = np.tile([0.1, 0.1, 0.1, 0.1, 0.0], (300, 1))
    found = indicators(ohlcv)
    assert set(found["rsi_14"]) == set(found["bb_position"]) == {0.5}
    for name in set(TECHNICAL_NAMES) - {"rsi_14", "bb_position"}:
        np.testing.assert_allclose(found[name], 0, atol=1e-15)
    ohlcv = smooth_series(1, 120)[1]
    spiked = ohlcv.copy()
    spiked[40, 4] = 1e22
    for name in ("obv_trend", "vwap_distance", "volume_ratio"):
        changed = indicators(ohlcv)[name] != indicators(spiked)[name]
        assert changed[40:45].any()
        assert not changed[:40].any()
        assert not changed[60:].any()


@pytest.mark.parametrize("seed", range(3))
def test_classical_indicators_equal_talib(seed):
    ohlcv = smooth_series(seed, 1200)[1]
    _, high, low, close, volume = ohlcv.T.copy()
    upper, _, lower = talib.BBANDS(close, 20, 2, 2)
    macd, signal, _ = talib.MACD(close)
    obv = talib.OBV(close, volume)
    same_seed = [
        (rsi(close), talib.RSI(close) / 100, 14),
        (average_true_range(ohlcv), talib.ATR(high, low, close), 14),
        (adx(ohlcv), talib.ADX(high, low, close) / 100, 27),
        (bollinger_position(close), (close - lower) / (upper - lower), 19),
        (obv_trend(close, volume)[10:], (obv[10:] - obv[:-10]) / talib.SMA(volume, 10)[10:], 0),
    ]
    for ours, theirs, first in same_seed:
        np.testing.assert_allclose(ours[first:], theirs[first:], rtol=1e-8)
        assert np.isnan(theirs[:first]).all()
    found = indicators(ohlcv)
    later_seed = [
        (found["macd"] * close, macd),
        (found["macd_signal"] * close, signal),
        *((ema(close, span), talib.EMA(close, span)) for span in (9, 21, 50)),
    ]
    for ours, theirs in later_seed:
        np.testing.assert_allclose(ours[900:], theirs[900:], rtol=1e-7, atol=1e-9)


def over(bars, function, values):
    """A function of each bar and those before it, `bars` in all where there are so many."""
    return np.array([function(values[max(0, t + 1 - bars) : t + 1]) for t in range(len(values))])


def ratio(above, below, empty):
    return np.array([a / b if b else empty for a, b in zip(above, below, strict=True)])


def slow_ema(values, span):
    result = [values[0]]
    for value in values[1:]:
        result.append(result[-1] * (span - 1) / (span + 1) + value * 2 / (span + 1))
    return np.array(result)


def slow_wilder(values):
    result = [sum(values[:14]) / 14]
    for value in values[14:]:
        result.append((result[-1] * 13 + value) / 14)
    return np.array(result)


def slow_adx(high, low):
    plus, minus = 0.0, 0.0
    strengths = []
    for t in range(1, len(high)):
        up, down = high[t] - high[t - 1], low[t - 1] - low[t]
        keep = 1 if t <= 13 else 13 / 14
        plus = plus * keep + (up if up > down and up > 0 else 0)
        minus = minus * keep + (down if down > up and down > 0 else 0)
        if t >= 14:
            strengths.append(abs(plus - minus) / (plus + minus) if plus + minus > 0 else 0)
    return np.array([0.0] * 27 + slow_wilder(strengths).tolist())


def slow_technical(ohlcv):
    _, high, low, close, volume = ohlcv.T
    before = np.append(close[:1], close[:-1])
    ranges = np.maximum(high, before) - np.minimum(low, before)
    gains, losses = (slow_wilder(np.maximum(sign * np.diff(close), 0)) for sign in (1, -1))
    macd = slow_ema(close, 12) - slow_ema(close, 26)
    deviation = over(20, np.std, close)
    width = 4 * deviation * (over(20, np.ptp, close) > 0)
    band = ratio(close - over(20, np.mean, close) + 2 * deviation, width, 0.5)
    atr = [ranges[0], *over(14, np.mean, ranges[1:14]), *slow_wilder(ranges[1:])]
    flow = over(11, lambda balance: balance[-1] - balance[0], np.cumsum(volume * np.sign(close - before)))
    traded = over(20, np.sum, volume)
    value = over(20, np.sum, (high + low + close) / 3 * volume)
    columns = [
        [*[0.5] * 14, *ratio(gains, gains + losses, 0.5)],
        macd / close,
        slow_ema(macd, 9) / close,
        band,
        atr / close,
        slow_adx(high, low),
        ratio(flow, over(10, np.mean, volume), 0),
        ratio(close * traded, value, 1) - 1,
        *(slow_ema(close, span) / close - 1 for span in (9, 21, 50)),
        np.log(np.maximum(ratio(volume, over(20, np.mean, volume), 1), 1e-3)),
    ]
    return np.column_stack(columns)


@pytest.mark.parametrize("seed", range(4))
def test_every_feature_equals_a_bar_by_bar_loop(seed):
    ohlcv = random_series(seed, 400)[1] if seed else smooth_series(seed, 400)[1]
    found, expected = technical(ohlcv), slow_technical(ohlcv)
    for column, name in enumerate(TECHNICAL_NAMES):
        np.testing.assert_allclose(found[:, column], expected[:, column], rtol=1e-9, atol=1e-11, err_msg=name)
