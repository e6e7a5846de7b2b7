from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_bars import Arrays, random_series, smooth_series

from stockenh.config.schema import settings_of
from stockenh.data.bars import Bars
from stockenh.data.features import FeatureSettings, alignment, context_features, feature_names
from stockenh.data.features.smart_money import smart_money
from stockenh.data.features.technical import technical
from stockenh.data.sources.files import SampleData
from stockenh.errors import ConfigError

DEFAULT = FeatureSettings()


def one_series(time: np.ndarray, ohlcv: np.ndarray) -> Bars:
    return Bars.from_series([("A", time, ohlcv)])


def test_the_names_are_the_29_of_the_specification() -> None:
    names = """
        align_1d align_1w align_2w align_1mo align_1q
        bull_ob_count bear_ob_count bull_fvg_count bear_fvg_count nearest_ob_distance nearest_fvg_distance
        swing_high_distance swing_low_distance bos_bull bos_bear choch_bull choch_bear
        rsi_14 macd macd_signal bb_position atr adx_14 obv_trend vwap_distance
        ema_9 ema_21 ema_50 volume_ratio
    """
    assert feature_names(DEFAULT) == tuple(names.split())


def test_columns_stand_where_the_names_say() -> None:
    time, ohlcv = random_series(0, 300)
    choice = FeatureSettings(timeframes=("1w", "4h"), lookback=40)
    found = dict(zip(feature_names(choice), context_features(one_series(time, ohlcv), choice).T, strict=True))
    assert len(found) == 26
    np.testing.assert_array_equal(found["align_1w"], alignment(time, ohlcv[:, 3], "1w"))
    np.testing.assert_array_equal(found["bear_fvg_count"], smart_money(ohlcv, 40)[:, 3])
    np.testing.assert_array_equal(found["volume_ratio"], technical(ohlcv)[:, -1].astype(np.float32))


def test_each_series_is_computed_by_itself() -> None:
    pieces = [random_series(seed, length) for seed, length in ((1, 150), (2, 1), (3, 90))]
    together = context_features(
        Bars.from_series([(f"S{i}", *piece) for i, piece in enumerate(pieces)]), DEFAULT
    )
    alone = [context_features(one_series(*piece), DEFAULT) for piece in pieces]
    assert together.dtype == np.float32
    assert together.tobytes() == np.concatenate(alone).tobytes()


def test_no_bars_give_no_rows() -> None:
    for bars in (Bars.from_series([]), one_series(np.empty(0, "datetime64[s]"), np.empty((0, 5)))):
        assert context_features(bars, DEFAULT).shape == (0, 29)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), last=st.integers(0, 298), scale=st.floats(0.01, 100))
def test_later_bars_change_nothing_to_the_last_bit(seed: int, last: int, scale: float) -> None:
    time, ohlcv = random_series(seed, 300)
    changed = ohlcv.copy()
    changed[last + 1 :] = random_series(seed + 1, 300)[1][last + 1 :] * scale
    later = time.copy()
    later[last + 1 :] += np.timedelta64(500, "D")
    until_now = context_features(one_series(time, ohlcv), DEFAULT)[: last + 1].tobytes()
    assert context_features(one_series(later, changed), DEFAULT)[: last + 1].tobytes() == until_now
    prefix = one_series(time[: last + 1], ohlcv[: last + 1])
    assert context_features(prefix, DEFAULT).tobytes() == until_now


def test_later_bars_change_nothing_beyond_the_first_chunk_of_a_long_series() -> None:
    time, ohlcv = random_series(9, 2_300)
    whole = context_features(one_series(time, ohlcv), DEFAULT)
    for length in (1_023, 1_024, 1_025, 2_048, 2_299):
        part = context_features(one_series(time[:length], ohlcv[:length]), DEFAULT)
        assert part.tobytes() == whole[:length].tobytes()


VOLUME_UNITS = (1024.0, 2.0**-40, 1e-9)
UNITS = [(smooth_series, price, 1) for price in (1024, 1000)]
UNITS += [(series, 1, volume) for series in (smooth_series, random_series) for volume in VOLUME_UNITS]


@pytest.mark.parametrize(("series", "price", "volume"), UNITS)
def test_the_units_of_price_and_volume_do_not_matter(
    series: Callable[[int, int], Arrays], price: float, volume: float
) -> None:
    time, ohlcv = series(4, 600)
    plain = context_features(one_series(time, ohlcv), DEFAULT)
    scaled = context_features(one_series(time, ohlcv * [price, price, price, price, volume]), DEFAULT)
    if np.log2(price * volume) % 1 == 0:
        assert scaled.tobytes() == plain.tobytes()
    np.testing.assert_allclose(scaled, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("huge", [1e10, 1e-10, 1e100])
def test_damaged_bars_still_give_finite_features(huge: float) -> None:
    time, ohlcv = random_series(5, 300)
    ohlcv[150, :4] = huge
    ohlcv[200:230, 4] = 0
    ohlcv[240, 4] = 1e15
    features = context_features(one_series(time, ohlcv), DEFAULT)
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"timeframes": ("1d", "1y")}, r"data\.timeframes: '1y' is not a timeframe"),
        ({"timeframes": ("1d", "1d")}, r"data\.timeframes=.*: name each once"),
        ({"lookback": 2}, r"data\.lookback=2"),
    ],
)
def test_bad_settings_name_the_key(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of("data", SampleData, keys)
