"""Exposures by hand, and what is left of a signal against statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import norm, rankdata, spearmanr

from stockenh.evaluation.exposures import exposures, market_volatility, normal_scores, residual
from stockenh.evaluation.ic import daily_ic


def series(bars, seed=0):
    rng = np.random.default_rng(seed)
    return 100 * np.exp(np.cumsum(rng.normal(0, 0.01, bars))), rng.uniform(1e6, 9e6, bars)


def test_exposures_by_hand():
    close, dollars = series(400)
    end = np.array([399, 310, 260])
    found = exposures(close, dollars, end, end)
    assert found.names == ("reversal", "momentum", "volatility", "size")
    assert found.bars == ("5 bars", "250 to 20 bars ago", "60 bars", "60 bars")
    moves = close[1:] / close[:-1] - 1
    for row, e in enumerate(end):
        expected = [
            close[e] / close[e - 5] - 1,
            close[e - 20] / close[e - 250] - 1,
            moves[e - 60 : e].std(),
            np.log(dollars[e - 59 : e + 1].mean()),
        ]
        np.testing.assert_allclose(found.values[row], expected)


def test_a_bar_without_enough_bars_of_its_own_series_has_none():
    close, dollars = series(800)  # two series of 400
    end = np.concatenate([np.arange(350, 400), [420, 700]])
    before = np.concatenate([np.arange(350, 400), [20, 300]])
    found = exposures(close, dollars, end, before)
    assert np.isfinite(found.values[[0, 49, 51]]).all()
    assert np.isfinite(found.values[50]).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("before", "names", "bars"),
    [
        (119, 4, ("5 bars", "119 to 20 bars ago", "60 bars", "60 bars")),
        (39, 3, ("5 bars", "39 bars", "40 bars")),
        (3, 3, ("3 bars", "3 bars", "4 bars")),
        (0, 1, ("1 bars",)),
    ],
)
def test_a_short_history_makes_shorter_exposures(before, names, bars):
    close, dollars = series(200)
    end = np.arange(before, 200)
    found = exposures(close, dollars, end, np.minimum(end, before))
    assert found.bars == bars and len(found.names) == names and np.isfinite(found.values).all()
    assert (found.of("momentum") is None) == (names < 4)


def test_the_markets_volatility_is_of_the_mean_return_of_those_that_are_there():
    close, _ = series(170)
    days = np.arange("2020-01-01", "2020-04-10", dtype="datetime64[D]")
    time = np.concatenate([days, days[30:]])  # a second symbol, listed later
    is_first = np.zeros(170, bool)
    is_first[[0, 100]] = True
    times, found = market_volatility(close, time, is_first)
    one = close[1:100] / close[:99] - 1
    both = one.copy()
    both[30:] = (one[30:] + close[101:] / close[100:-1] - 1) / 2
    assert (times == days[1:]).all() and np.isnan(found[:59]).all()
    np.testing.assert_allclose(found[59:], [both[i - 59 : i + 1].std() for i in range(59, 99)])
    times, found = market_volatility(close[:50], time[:50], is_first[:50])
    assert len(times) == 49 and np.isnan(found).all()


def rows_of(days, symbols, seed=0):
    rng = np.random.default_rng(seed)
    date = rng.permutation(np.repeat(np.arange(days), symbols))
    of = rng.normal(size=(len(date), 4))
    return date, of, of @ [1, -1, 0.5, 0] + rng.normal(size=len(date))


def test_what_is_left_is_statsmodels_residual():
    date, of, signal = rows_of(20, 30)
    of[0, 2] = np.nan
    found = residual(signal, of, date, 20)
    assert np.isnan(found[0]) and np.isfinite(found[1:]).all()
    for day in range(20):
        rows = np.flatnonzero((date == day) & np.isfinite(found))

        def scores(values, rows=rows):
            return norm.ppf((rankdata(values[rows]) - 0.5) / len(rows))

        fit = sm.OLS(scores(signal), sm.add_constant(np.stack([scores(x) for x in of.T], 1))).fit()
        np.testing.assert_allclose(found[rows], fit.resid, atol=1e-9)
        for exposure in of.T:
            assert abs(np.corrcoef(found[rows], scores(exposure))[0, 1]) < 1e-9
    y_ret = np.random.default_rng(9).normal(size=len(date))
    known = np.isfinite(found)
    rank_ic = daily_ic(found[known], y_ret[known], date[known], 20).rank_ic
    rows = known & (date == 7)
    assert rank_ic[7] == pytest.approx(spearmanr(found[rows], y_ret[rows])[0])


def test_a_signal_that_only_repeats_an_exposure_leaves_nothing():
    date, of, _ = rows_of(5, 30)
    found = residual(np.exp(of[:, 1]), of, date, 5)
    assert (found == 0).all()
    assert np.isnan(daily_ic(found, of[:, 0], date, 5).rank_ic).all()


def test_an_exposure_that_is_the_same_for_all_takes_nothing_out():
    date, of, signal = rows_of(5, 30)
    of[:, 3] = 2.0
    np.testing.assert_allclose(residual(signal, of, date, 5), residual(signal, of[:, :3], date, 5))


def test_a_day_with_few_symbols_is_left_out():
    date, of, signal = rows_of(4, 30)
    few = (date != 2) | (np.cumsum(date == 2) <= 9)
    found = residual(signal[few], of[few], date[few], 4)
    assert np.isnan(found[date[few] == 2]).all() and np.isfinite(found[date[few] != 2]).all()
    assert np.isnan(residual(signal[:5], of[:5], date[:5], 4)).all()


def test_normal_scores_are_scipys():
    date, of, _ = rows_of(3, 7)
    found = normal_scores(np.round(of[:, 0]), date)
    for day in range(3):
        rows = date == day
        np.testing.assert_allclose(found[rows], norm.ppf((rankdata(np.round(of[rows, 0])) - 0.5) / 7))
