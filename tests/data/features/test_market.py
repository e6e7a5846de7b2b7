"""Features of the whole panel: by hand, from the past alone, and with symbols that come and go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockenh.data.bars import Bars
from stockenh.data.features import FeatureSettings, context_features, feature_family, feature_names
from stockenh.data.features.market import MARKET_NAMES, market

PANEL = FeatureSettings(market=True)
START = np.datetime64("2020-01-01")


def series(name, close, first=0):
    """A series of flat bars at these closes, on the days from `first` on."""
    close = np.asarray(close, np.float64)
    time = START + np.arange(first, first + len(close))
    return name, time, np.column_stack([*[close] * 4, np.full(len(close), 1e6)])


def walks(count, bars, seed=0):
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.02, (count, bars)) + rng.normal(0, 0.01, bars)
    return [series(f"S{i}", 50 * np.exp(np.cumsum(step))) for i, step in enumerate(steps)]


def by_name(bars, lookback=120):
    return dict(zip(MARKET_NAMES, market(bars, lookback).T, strict=True))


def test_three_symbols_by_hand():
    bars = Bars.from_series([series("A", [100, 110, 121]), series("B", [10, 10, 9]), series("C", [5, 5, 5])])
    found = by_name(bars)
    last = [2, 5, 8]
    returns = np.array([0.1, -0.1, 0.0])
    np.testing.assert_allclose(found["market_return_1"][last], 0, atol=1e-12)
    np.testing.assert_allclose(found["market_return_20"][last], (0.21 - 0.1 + 0) / 3)
    np.testing.assert_allclose(found["market_dispersion"][last], returns.std())
    np.testing.assert_allclose(found["market_above_ema_50"][last], 1 / 3)
    np.testing.assert_allclose(found["market_return_rank"][last], [2 / 3, -2 / 3, 0], atol=1e-12)
    # volatility over two returns: 0 of A, 0.05 of B, 0 of C, so A and C share a rank
    np.testing.assert_allclose(found["market_volatility_rank"][last], [-1 / 3, 2 / 3, -1 / 3])


def test_beta_is_the_slope_on_the_mean_of_the_day():
    rng = np.random.default_rng(1)
    moves = rng.normal(0, 0.02, 300)
    made = [series(f"S{b}", 100 * np.cumprod(1 + b * moves)) for b in (0.5, 1.0, 1.5)]
    found = by_name(Bars.from_series(made))["market_beta"].reshape(3, 300)
    np.testing.assert_allclose(found[:, 50:], np.repeat([[0.5], [1.0], [1.5]], 250, 1), rtol=1e-6)


def test_a_symbol_that_begins_later_counts_from_its_second_bar():
    early, late = series("A", [100, 110, 121, 133.1]), series("B", [50, 100, 50], first=1)
    found = by_name(Bars.from_series([early, late]))["market_return_1"]
    np.testing.assert_allclose(found, [0, 0.1, (0.1 + 1) / 2, (0.1 - 0.5) / 2, 0.1, 0.55, -0.2])


def test_a_single_symbol_and_flat_prices_give_finite_neutral_values():
    alone = by_name(Bars.from_series([series("A", [10, 10, 10])]))
    assert all(not values.any() for values in alone.values())
    assert market(Bars.from_series([]), 20).shape == (0, len(MARKET_NAMES))


def test_they_stand_after_the_29_which_stay_as_they_are():
    bars = Bars.from_series(walks(4, 200))
    plain, more = context_features(bars, FeatureSettings()), context_features(bars, PANEL)
    assert feature_names(PANEL) == feature_names(FeatureSettings()) + MARKET_NAMES
    assert more[:, :29].tobytes() == plain.tobytes() and more.shape[1] == 37
    assert np.isfinite(more).all() and {feature_family(name) for name in MARKET_NAMES} == {"market"}


@settings(max_examples=20)
@given(st.integers(30, 149), st.integers(0, 10**6))
def test_no_bar_after_t_of_any_symbol_moves_them(last, seed):
    until_now = START + last
    made = walks(5, 150)
    whole = Bars.from_series(made)
    rng = np.random.default_rng(seed)
    changed = Bars.from_series(
        [
            (n, t, np.where((t > until_now)[:, None], x * rng.uniform(0.5, 2, len(t))[:, None], x))
            for n, t, x in made
        ]
    )
    cut = Bars.from_series([(n, t[: last + 1], x[: last + 1]) for n, t, x in made])
    now = whole.time <= until_now
    expected = context_features(whole, PANEL)[now].tobytes()
    assert context_features(changed, PANEL)[now].tobytes() == expected
    assert context_features(cut, PANEL).tobytes() == expected


@pytest.mark.parametrize("factor", [4.0, 1e-3])
def test_they_do_not_depend_on_units(factor):
    made = walks(3, 100)
    other = [(name, time, ohlcv * factor) for name, time, ohlcv in made]
    plain, scaled = (market(Bars.from_series(x), 60) for x in (made, other))
    np.testing.assert_allclose(plain, scaled, rtol=1e-9, atol=1e-9)
