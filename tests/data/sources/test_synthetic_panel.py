"""The generated panel: its filter against a general one, its limit against closed forms and `daily_ic`."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.cache import DiskCache
from stockenh.data.sources.synthetic_panel import (
    DRIFT,
    FACTOR,
    PHI,
    VOLATILITY,
    SyntheticPanel,
    best_forecasts,
    carried,
    generate,
    loadings,
)
from stockenh.data.targets import Rank
from stockenh.evaluation.ic import best_rank_ic, daily_ic

HORIZONS = (1, 3, 10)
SMALL = SyntheticPanel(symbols=5, bars=300, strength=2)
BURN_IN = 200  # bars until the filter has settled


def by_symbol(rows, symbols):
    return rows.reshape(symbols, -1, *rows.shape[1:])


def returns_of(bars, horizon):
    """(S, T - horizon) simple returns."""
    close = by_symbol(bars.ohlcv[:, CLOSE], len(bars.symbols))
    return close[:, horizon:] / close[:, :-horizon] - 1


@pytest.fixture(scope="module")
def large():
    """A panel and its forecasts, large enough that chance moves a rank IC by about 0.002."""
    settings = SyntheticPanel(symbols=300, bars=3000, strength=2)
    bars = generate(settings)
    return settings, bars, best_forecasts(bars, settings, HORIZONS)


def daily(large, column, of=daily_ic):
    settings, bars, best = large
    horizon = HORIZONS[column]
    score = by_symbol(best.mean, settings.symbols)[:, BURN_IN:-horizon, column]
    returns = returns_of(bars, horizon)[:, BURN_IN:]
    days = returns.shape[1]
    return of(score.ravel(), returns.ravel(), np.tile(np.arange(days), settings.symbols), days)


def test_settings_decide_the_bits_and_more_symbols_or_bars_leave_those_that_there_are():
    assert generate(SMALL).digest() == generate(replace(SMALL)).digest()
    few, more = generate(SMALL), generate(replace(SMALL, symbols=7, bars=400))
    assert few.symbols == more.symbols[:5]
    np.testing.assert_array_equal(by_symbol(few.ohlcv, 5), by_symbol(more.ohlcv, 7)[:5, :300])
    assert not (few.ohlcv == generate(replace(SMALL, seed=1)).ohlcv).any()
    open_, high, low, close, volume = few.ohlcv.T
    assert (high >= np.maximum(open_, close)).all() and (low <= np.minimum(open_, close)).all()
    assert (low > 0).all() and (volume > 0).all()


def test_the_two_gains_are_those_of_the_general_filter():
    """The textbook filter of all drifts, with full matrices."""
    bars = generate(SMALL)
    b, count = loadings(SMALL), SMALL.symbols
    moves = np.diff(np.log(by_symbol(bars.ohlcv[:, CLOSE], count)), axis=1).T / VOLATILITY
    stationary = (SMALL.strength * DRIFT) ** 2 * np.eye(count)
    drift, covariance = np.zeros(count), stationary
    found = best_forecasts(bars, SMALL, HORIZONS)
    for t, move in enumerate(moves, start=1):
        drift, covariance = PHI * drift, PHI**2 * covariance + (1 - PHI**2) * stationary
        gain = covariance @ np.linalg.inv(covariance + np.eye(count) + np.outer(b, b))
        drift, covariance = drift + gain @ (move - drift), covariance - gain @ covariance
        expected = VOLATILITY * np.outer(drift, [carried(h) for h in HORIZONS])
        np.testing.assert_allclose(by_symbol(found.mean, count)[:, t], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("column", range(3))
def test_the_filter_attains_the_closed_form(large, column):
    """Of the steady state: deviation of the forecast over that of the return, within a day."""
    settings, horizon = large[0], HORIZONS[column]
    variance = (settings.strength * DRIFT) ** 2
    shock = variance * (1 - PHI**2)
    # the quadratic equation of the uncertainty before a bar; the noise along the factor hardly matters
    half = (1 - PHI**2 - shock) / 2
    before = -half + np.sqrt(half**2 + shock)
    signal = carried(horizon) ** 2 * (variance - before / (1 + before))
    lags = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    betas = horizon * FACTOR**2 / 12  # of betas that are uniform on an interval of length 1
    total = horizon + variance * (PHI**lags).sum() + betas
    correlation = np.sqrt(signal / total)
    found = daily(large, column)
    assert found.ic.mean() == pytest.approx(correlation, abs=0.008)
    spearman = 6 / np.pi * np.arcsin(correlation / 2)  # of a bivariate normal distribution
    assert found.rank_ic.mean() == pytest.approx(spearman, abs=0.008)


@pytest.mark.parametrize("column", range(3))
def test_the_best_score_meets_the_limit_and_nothing_near_it_exceeds_it(large, column):
    limit = daily(large, column, best_rank_ic)
    np.testing.assert_array_equal(limit, daily(large, column).rank_ic)
    settings, bars, best = large
    own = np.abs(best.mean).mean()
    noise = np.random.default_rng(0).normal(0, own, best.mean.shape)
    worse = daily((settings, bars, replace(best, mean=best.mean + noise)), column).rank_ic
    assert worse.mean() < limit.mean() - 0.01
    p = by_symbol(best.up_prob, settings.symbols)[:, BURN_IN : -HORIZONS[column], column]
    up = returns_of(bars, HORIZONS[column])[:, BURN_IN:] > 0
    assert ((p > 0.5) == up).mean() == pytest.approx(np.maximum(p, 1 - p).mean(), abs=0.01)


def test_the_order_of_means_is_as_good_as_that_of_expected_ranks(large):
    """Betas differ, so expected ranks have not quite the order of the means."""
    settings, bars, best = large
    mean = by_symbol(best.mean, settings.symbols)[:, BURN_IN:-10:20, 2] / VOLATILITY
    b = loadings(settings)
    spread = np.sqrt(10 * (2 + np.subtract.outer(b, b) ** 2))[..., None]
    expected = ndtr((mean[:, None] - mean[None]) / spread).sum(1)
    returns = returns_of(bars, 10)[:, BURN_IN::20]
    days = returns.shape[1]
    date = np.tile(np.arange(days), settings.symbols)
    ics = [daily_ic(score.ravel(), returns.ravel(), date, days).rank_ic.mean() for score in (mean, expected)]
    assert ics[1] - ics[0] == pytest.approx(0, abs=2e-3)


def test_without_strength_no_symbol_is_ranked_above_another():
    noise = replace(SMALL, strength=0.0)
    best = best_forecasts(generate(noise), noise, HORIZONS)
    assert not best.mean.any()
    np.testing.assert_array_equal(best.up_prob, 0.5)
    found = best_rank_ic(np.zeros(6), np.arange(6.0), np.array([0, 0, 0, 1, 1, 2]), 4)
    assert found[0] == 0 and np.isnan(found[1:]).all()


@pytest.mark.parametrize("t", [130, 298])
def test_neither_inputs_nor_the_limit_at_a_bar_see_later_bars(t):
    bars = generate(SMALL)
    changed = by_symbol(bars.ohlcv, 5).copy()
    changed[:, t + 1 :] *= np.random.default_rng(t).uniform(0.5, 2, (5, 299 - t, 1))
    other = Bars(bars.symbols, bars.offsets, bars.time, changed.reshape(-1, 5))
    before, after = (by_symbol(best_forecasts(of, SMALL, HORIZONS).mean, 5) for of in (bars, other))
    assert before[:, : t + 1].tobytes() == after[:, : t + 1].tobytes()
    assert (before[:, t + 1 :] != after[:, t + 1 :]).any(-1).all()
    windows = [SMALL.windows_of(of) for of in (bars, other)]
    early = windows[0].asof <= bars.time[t]
    assert windows[0].context[early].tobytes() == windows[1].context[early].tobytes()


def test_windows_bring_the_best_score_of_their_rows():
    settings = replace(SMALL, lookback=20)
    windows = settings.load(DiskCache(None)).windows
    best = best_forecasts(generate(settings), settings, settings.horizons)
    np.testing.assert_array_equal(windows.best_score, best.mean[windows.end])
    picked = np.array([7, 3])
    np.testing.assert_array_equal(windows.take(picked).best_score, windows.best_score[picked])
    ranked, _ = Rank().apply(windows, {"train": np.flatnonzero(windows.labelled)})
    assert ranked.best_prob is None and ranked.best_score is windows.best_score
