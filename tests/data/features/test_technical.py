from __future__ import annotations

import itertools
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


def indicators(ohlcv: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(TECHNICAL_NAMES, technical(ohlcv).T, strict=True))


def test_volume_weighted_price_by_hand() -> None:
    ohlcv = np.array([[10, 12, 9, 9, 0], [9, 11, 7, 9, 100], [9, 15, 9, 12, 300]], dtype=float)
    # typical prices 9 and 12 with weights 100 and 300: 11.25
    np.testing.assert_allclose(vwap_distance(ohlcv), [0, 0, 12 / 11.25 - 1])


def test_volume_ratio_by_hand() -> None:
    ohlcv = smooth_series(0, 3)[1]
    ohlcv[:, 4] = [0, 6, 0]
    expected = [0, math.log(6 / 3), math.log(1e-3)]
    np.testing.assert_allclose(indicators(ohlcv)["volume_ratio"], expected)


def test_a_flat_price_without_volume_is_neutral() -> None:
    ohlcv = np.tile([0.1, 0.1, 0.1, 0.1, 0.0], (300, 1))
    found = indicators(ohlcv)
    assert set(found["rsi_14"]) == set(found["bb_position"]) == {0.5}
    for name in set(TECHNICAL_NAMES) - {"rsi_14", "bb_position"}:
        np.testing.assert_allclose(found[name], 0, atol=1e-15)


def test_a_huge_volume_leaves_no_rounding_error_behind() -> None:
    ohlcv = smooth_series(1, 120)[1]
    spiked = ohlcv.copy()
    spiked[40, 4] = 1e22
    for name in ("obv_trend", "vwap_distance", "volume_ratio"):
        changed = indicators(ohlcv)[name] != indicators(spiked)[name]
        assert changed[40:45].any()
        assert not changed[:40].any()
        assert not changed[60:].any()


def test_classical_indicators_equal_talib() -> None:
    for seed in range(3):
        ohlcv = smooth_series(seed, 1200)[1]
        _, high, low, close, volume = ohlcv.T.copy()
        upper, middle, lower = talib.BBANDS(close, 20, 2, 2)
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
            (middle, talib.SMA(close, 20)),
            *((ema(close, span), talib.EMA(close, span)) for span in (9, 21, 50)),
        ]
        for ours, theirs in later_seed:
            np.testing.assert_allclose(ours[900:], theirs[900:], rtol=1e-7, atol=1e-9)


def slow_ema(values: list[float], span: int) -> list[float]:
    result = values[:1]
    for value in values[1:]:
        result.append(result[-1] * (span - 1) / (span + 1) + value * 2 / (span + 1))
    return result


def slow_wilder(values: list[float]) -> list[float]:
    result = [sum(values[:14]) / 14]
    for value in values[14:]:
        result.append((result[-1] * 13 + value) / 14)
    return result


def slow_adx(high: list[float], low: list[float], ranges: list[float]) -> list[float]:
    plus, minus, total = 0.0, 0.0, 0.0
    strengths = []
    for t in range(1, len(high)):
        up, down = high[t] - high[t - 1], low[t - 1] - low[t]
        keep = 1 if t <= 13 else 13 / 14
        plus = plus * keep + (up if up > down and up > 0 else 0)
        minus = minus * keep + (down if down > up and down > 0 else 0)
        total = total * keep + ranges[t]
        if t >= 14:
            strengths.append(abs(plus - minus) / (plus + minus) if plus + minus > 0 else 0)
    return [0.0] * 27 + slow_wilder(strengths)


def slow_technical(ohlcv: np.ndarray) -> np.ndarray:
    _, high, low, close, volume = ohlcv.T.tolist()
    count = len(close)
    changes = [b - a for a, b in itertools.pairwise(close)]
    gains = slow_wilder([max(c, 0) for c in changes])
    losses = slow_wilder([max(-c, 0) for c in changes])
    strength = [0.5] * 14 + [g / (g + x) if g + x > 0 else 0.5 for g, x in zip(gains, losses, strict=True)]
    ranges = [high[0] - low[0]]
    for t in range(1, count):
        ranges.append(max(high[t], close[t - 1]) - min(low[t], close[t - 1]))
    wilder = [0.0] * 14 + slow_wilder(ranges[1:])
    direction = slow_adx(high, low, ranges)
    macd = [a - b for a, b in zip(slow_ema(close, 12), slow_ema(close, 26), strict=True)]
    signal = slow_ema(macd, 9)
    averages = [slow_ema(close, span) for span in (9, 21, 50)]
    balance = [0.0]
    for t in range(1, count):
        balance.append(balance[-1] + volume[t] * ((close[t] > close[t - 1]) - (close[t] < close[t - 1])))
    rows = []
    for t in range(count):
        window = range(max(0, t - 19), t + 1)
        last10 = volume[max(0, t - 9) : t + 1]
        mean = sum(close[i] for i in window) / len(window)
        deviation = math.sqrt(sum((close[i] - mean) ** 2 for i in window) / len(window))
        flat = max(close[i] for i in window) == min(close[i] for i in window)
        band = 0.5 if flat else (close[t] - mean + 2 * deviation) / (4 * deviation)
        atr = wilder[t] if t >= 14 else sum(ranges[1 : t + 1]) / t if t else ranges[0]
        flow = balance[t] - balance[max(0, t - 10)]
        traded = sum(volume[i] for i in window)
        value = sum((high[i] + low[i] + close[i]) / 3 * volume[i] for i in window)
        rows.append(
            [
                strength[t],
                macd[t] / close[t],
                signal[t] / close[t],
                band,
                atr / close[t],
                direction[t],
                flow / (sum(last10) / len(last10)) if sum(last10) else 0,
                close[t] * traded / value - 1 if traded else 0,
                *(average[t] / close[t] - 1 for average in averages),
                math.log(max(volume[t] / (traded / len(window)), 1e-3)) if traded else 0,
            ]
        )
    return np.array(rows)


@pytest.mark.parametrize("seed", range(4))
def test_every_feature_equals_a_bar_by_bar_loop(seed: int) -> None:
    ohlcv = random_series(seed, 400)[1] if seed else smooth_series(seed, 400)[1]
    found, expected = technical(ohlcv), slow_technical(ohlcv)
    for column, name in enumerate(TECHNICAL_NAMES):
        np.testing.assert_allclose(found[:, column], expected[:, column], rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("length", [1, 2, 13, 14, 15, 20, 27, 28, 29, 50, 63, 64, 65])
def test_a_short_history_is_the_beginning_of_a_long_one_to_the_last_bit(length: int) -> None:
    ohlcv = random_series(8, 80)[1]
    assert technical(ohlcv[:length]).tobytes() == technical(ohlcv)[:length].tobytes()
