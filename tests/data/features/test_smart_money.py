import numpy as np
import pytest
from random_bars import random_series, smooth_series

from stockenh.data.features.smart_money import SMART_MONEY_NAMES, smart_money


def structure(bars, lookback=120):
    ohlcv = np.column_stack([np.array(bars), np.ones(len(bars))])
    return dict(zip(SMART_MONEY_NAMES, smart_money(ohlcv, lookback).T, strict=True))


def quiet(close, bars):
    return [(close, close, close, close)] * bars


@pytest.mark.parametrize(
    ("candle", "counts"),
    [
        # Bearish candle 101 -> 100 with high 102; the next close, 105, lies above 1.02 * 102 = 104.04.
        ((101, 102, 98, 100), [0, 1, 1, 1, 0, 0]),
        ((101, 103, 98, 100), [0] * 6),  # 105 is not above 1.02 * 103 = 105.06
        ((100, 102, 98, 101), [0] * 6),  # a rising candle is no bullish block
        ((100, 102, 98, 100), [0] * 6),  # nor an undecided one
    ],
)
def test_a_bullish_order_block_counts_from_the_bar_that_confirms_it(candle, counts):
    found = structure([candle, (101, 106, 101, 105), *quiet(105, 4)], lookback=4)
    assert found["bull_ob_count"].tolist() == counts and not found["bear_ob_count"].any()
    distance = np.array(counts) * (100 - 105) / 105
    np.testing.assert_allclose(found["nearest_ob_distance"][:5], distance[:5])


def test_a_fair_value_gap_counts_while_its_three_bars_lie_in_the_lookback_either_way():
    block = structure([(100, 102, 98, 101), (97, 97, 95, 96), *quiet(96, 1)])
    assert block["bear_ob_count"].tolist() == [0, 1, 1] and not block["bull_ob_count"].any()
    gap = structure([(10, 11, 10, 10), (10, 10, 8, 8), (8, 9, 7, 8)])
    assert gap["bear_fvg_count"].tolist() == [0, 0, 1]
    assert gap["nearest_fvg_distance"][-1] == pytest.approx(1.5 / 8)
    bars = [(10, 10, 9, 10), (10, 12, 10, 12), (12, 13, 11, 12), *quiet(12, 3)]
    found = structure(bars, lookback=4)
    assert found["bull_fvg_count"].tolist() == [0, 0, 1, 1, 0, 0]
    assert not found["bear_fvg_count"].any()
    np.testing.assert_allclose(found["nearest_fvg_distance"], [0, 0, -1.5 / 12, -1.5 / 12, 0, 0])
    # Gaps 10-12 (middle 11) and 12-14 (middle 13) around a close of 12: the second is the later one.
    bars = [(10, 10, 9, 10), (10, 12, 10, 12), (12, 12, 12, 12), (12, 14, 12, 14), (14, 14, 14, 14)]
    found = structure([*bars, (14, 14, 12, 12)])
    assert found["bull_fvg_count"][-1] == 2
    assert found["nearest_fvg_distance"][-1] == pytest.approx(1 / 12)


def test_a_swing_shows_twenty_bars_later_and_needs_all_its_bars():
    bars = quiet(100, 90)
    bars[20], bars[41] = (100, 120, 100, 100), (100, 100, 80, 100)
    found = structure(bars)
    assert not found["swing_high_distance"][:40].any()
    np.testing.assert_allclose(found["swing_high_distance"][40:61], 0.2)
    assert not found["swing_low_distance"][:61].any()
    np.testing.assert_allclose(found["swing_low_distance"][61], -0.2)
    bars = quiet(100, 60)
    bars[19] = (100, 120, 100, 100)  # only nineteen bars before it
    assert not structure(bars)["swing_high_distance"].any()


def test_a_break_fires_once_at_the_crossing_and_a_change_of_character_after_the_other_kind():
    bars = quiet(100, 30)
    bars[20] = (100, 120, 80, 100)
    closes = [100] * 11 + [120, 121, 125, 119, 121, 90, 80, 79, 85, 79, 121]
    found = structure([*bars, *[(c, min(c, 119.0), max(c, 81.0), float(c)) for c in closes]])
    at = {name: np.flatnonzero(found[name]).tolist() for name in SMART_MONEY_NAMES[-4:]}
    assert at == {"bos_bull": [42, 45, 51], "bos_bear": [48, 50], "choch_bull": [51], "choch_bear": [48]}


def slow_smart_money(ohlcv, lookback):
    rows, last_break, previous_close = [], 0, None
    opening, high, low, closes = ohlcv.T[:4]
    for now, close in enumerate(closes):
        first = max(0, now - lookback + 1)
        pairs, triples = range(first, now), range(first + 2, now + 1)
        bull = [i for i in pairs if closes[i] < opening[i] and closes[i + 1] > 1.02 * high[i]]
        bear = [i for i in pairs if closes[i] > opening[i] and closes[i + 1] < 0.98 * low[i]]
        up_gaps = [i for i in triples if low[i] > high[i - 2]]
        down_gaps = [i for i in triples if high[i] < low[i - 2]]
        blocks = [(high[i] + low[i]) / 2 for i in sorted(bull + bear)]
        middles = {i: (low[i] + high[i - 2]) / 2 for i in up_gaps}
        middles |= {i: (high[i] + low[i - 2]) / 2 for i in down_gaps}
        nearest = [
            (min(reversed(levels), key=lambda level: abs(level - close)) - close) / close if levels else 0
            for levels in (blocks, [middles[i] for i in sorted(middles)])
        ]
        swings = [
            [line[i] for i in range(20, now - 19) if line[i] == extreme(line[i - 20 : i + 21])]
            for line, extreme in ((high, max), (low, min))
        ]
        distances = [(levels[-1] - close) / close if levels else 0 for levels in swings]
        up = bool(swings[0]) and previous_close <= swings[0][-1] < close
        down = bool(swings[1]) and previous_close >= swings[1][-1] > close
        turns = [up and last_break == -1, down and last_break == 1]
        last_break = 1 if up else -1 if down else last_break
        previous_close = close
        counts = [len(found) for found in (bull, bear, up_gaps, down_gaps)]
        rows.append([*counts, *nearest, *distances, up, down, *turns])
    return np.array(rows, dtype=float)


@pytest.mark.parametrize("lookback", [3, 30, 120])
def test_every_feature_equals_a_bar_by_bar_loop(lookback):
    seen = np.zeros(len(SMART_MONEY_NAMES), dtype=bool)
    for ohlcv in (random_series(4, 260)[1], random_series(5, 260)[1], smooth_series(6, 260)[1]):
        expected = slow_smart_money(ohlcv, lookback)
        seen |= expected.any(axis=0)
        np.testing.assert_allclose(smart_money(ohlcv, lookback), expected, rtol=1e-12, atol=1e-12)
    assert seen.all()
