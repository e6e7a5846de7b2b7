import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_bars import random_series, smooth_series

from stockenh.data.bars import Bars
from stockenh.data.features import FeatureSettings, alignment, context_features, feature_names
from stockenh.data.features.smart_money import smart_money
from stockenh.data.features.technical import technical

DEFAULT = FeatureSettings()


def one_series(time, ohlcv):
    return Bars.from_series([("A", time, ohlcv)])


def test_the_names_are_those_of_the_specification_and_of_the_columns():
    names = """
        align_1d align_1w align_2w align_1mo align_1q
        bull_ob_count bear_ob_count bull_fvg_count bear_fvg_count nearest_ob_distance nearest_fvg_distance
        swing_high_distance swing_low_distance bos_bull bos_bear choch_bull choch_bear
        rsi_14 macd macd_signal bb_position atr adx_14 obv_trend vwap_distance
        ema_9 ema_21 ema_50 volume_ratio
    """
    assert feature_names(DEFAULT) == tuple(names.split())
    time, ohlcv = random_series(0, 300)
    choice = FeatureSettings(timeframes=("1w", "4h"), lookback=40)
    found = dict(zip(feature_names(choice), context_features(one_series(time, ohlcv), choice).T, strict=True))
    assert len(found) == 26
    np.testing.assert_array_equal(found["align_1w"], alignment(time, ohlcv[:, 3], "1w"))
    np.testing.assert_array_equal(found["bear_fvg_count"], smart_money(ohlcv, 40)[:, 3])
    np.testing.assert_array_equal(found["volume_ratio"], technical(ohlcv)[:, -1].astype(np.float32))


def test_each_series_is_computed_by_itself_and_no_bars_give_no_rows():
    lengths = {"A": 150, "B": 1, "C": 90}
    pieces = [(name, *random_series(bars, bars)) for name, bars in lengths.items()]
    together = context_features(Bars.from_series(pieces), DEFAULT)
    alone = [context_features(Bars.from_series([piece]), DEFAULT) for piece in pieces]
    assert together.dtype == np.float32
    assert together.tobytes() == np.concatenate(alone).tobytes()
    for bars in (Bars.from_series([]), one_series(np.empty(0, "datetime64[s]"), np.empty((0, 5)))):
        assert context_features(bars, DEFAULT).shape == (0, 29)


@pytest.mark.parametrize("compute", [technical, lambda ohlcv: smart_money(ohlcv, 120)])
def test_a_short_history_is_the_beginning_of_a_long_one_to_the_last_bit(compute):
    for ohlcv in (random_series(seed, 80)[1] for seed in (7, 8)):
        whole = compute(ohlcv)
        for length in range(1, 80):
            assert compute(ohlcv[:length]).tobytes() == whole[:length].tobytes()


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), last=st.integers(0, 298), scale=st.floats(0.01, 100))
def test_later_bars_change_nothing_to_the_last_bit(seed, last, scale):
    time, ohlcv = random_series(seed, 300)
    changed = ohlcv.copy()
    changed[last + 1 :] = random_series(seed + 1, 300)[1][last + 1 :] * scale
    later = time.copy()
    later[last + 1 :] += np.timedelta64(500, "D")
    until_now = context_features(one_series(time, ohlcv), DEFAULT)[: last + 1].tobytes()
    assert context_features(one_series(later, changed), DEFAULT)[: last + 1].tobytes() == until_now
    prefix = one_series(time[: last + 1], ohlcv[: last + 1])
    assert context_features(prefix, DEFAULT).tobytes() == until_now


def test_later_bars_change_nothing_beyond_the_first_chunk_of_a_long_series():
    time, ohlcv = random_series(9, 2_300)
    whole = context_features(one_series(time, ohlcv), DEFAULT)
    for length in (1_023, 1_024, 1_025, 2_048, 2_299):
        part = context_features(one_series(time[:length], ohlcv[:length]), DEFAULT)
        assert part.tobytes() == whole[:length].tobytes()


@pytest.mark.parametrize(
    ("series", "price", "volume"),
    [
        *((smooth_series, price, 1) for price in (1024, 1000)),
        *((series, 1, 2.0**power) for series in (smooth_series, random_series) for power in (10, -40)),
        *((series, 1, 1e-9) for series in (smooth_series, random_series)),
    ],
)
def test_the_units_of_price_and_volume_do_not_matter(series, price, volume):
    time, ohlcv = series(4, 600)
    plain = context_features(one_series(time, ohlcv), DEFAULT)
    scaled = context_features(one_series(time, ohlcv * [price, price, price, price, volume]), DEFAULT)
    if np.log2(price * volume) % 1 == 0:
        assert scaled.tobytes() == plain.tobytes()
    np.testing.assert_allclose(scaled, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("huge", [1e10, 1e-10, 1e100])
def test_damaged_bars_still_give_finite_features(huge):
    time, ohlcv = random_series(5, 300)
    ohlcv[150, :4], ohlcv[200:230, 4], ohlcv[240, 4] = huge, 0, 1e15
    assert np.isfinite(context_features(one_series(time, ohlcv), DEFAULT)).all()
