"""Returns by quantile, turnover and rank autocorrelation, against alphalens and by hand."""

import numpy as np
import pandas as pd
import pytest
from alphalens import performance
from alphalens.utils import get_clean_factor

from stockenh.evaluation.bootstrap import BlockBootstrap
from stockenh.evaluation.ic import daily_ic
from stockenh.evaluation.quantiles import (
    NONE,
    above_the_day,
    by_day_and_symbol,
    day_quantiles,
    day_ranks,
    mean_of_days,
    quantile_figures,
    quantile_returns,
    rank_autocorrelation,
    share_of_new,
)

DAYS, SYMBOLS = 60, 25
SHAPE = DAYS, SYMBOLS


@pytest.fixture(scope="module")
def rows():
    """date, symbol, signal and return of a persistent signal with some skill; on a third of the days only ten
    symbols are there."""
    rng = np.random.default_rng(0)
    signal = np.cumsum(rng.normal(size=SHAPE), axis=0) + rng.normal(size=SHAPE)
    y_ret = 0.01 * signal + rng.normal(0, 0.1, SHAPE)
    there = np.ones(SHAPE, bool)
    there[::3, rng.permutation(SYMBOLS)[:15]] = False
    date, symbol = np.nonzero(there)
    return date, symbol, signal[there], y_ret[there]


@pytest.fixture(scope="module")
def factor_data(rows):
    """The same rows as alphalens has them."""
    date, symbol, signal, y_ret = rows
    days = pd.bdate_range("2020-01-01", periods=DAYS)
    index = pd.MultiIndex.from_arrays([days[date], [f"S{i:02}" for i in symbol]], names=["date", "asset"])
    returns = pd.DataFrame({"3D": y_ret}, index=index)
    return get_clean_factor(pd.Series(signal, index), returns, quantiles=5, max_loss=0)


def test_quantiles_and_their_returns_are_those_of_alphalens(rows, factor_data):
    date, _, signal, y_ret = rows
    quantile = day_quantiles(signal, date, 5)
    assert (quantile + 1 == factor_data["factor_quantile"].to_numpy()).all()
    for demeaned, values in ((False, y_ret), (True, above_the_day(y_ret, date, DAYS))):
        of_days = quantile_returns(quantile, values, date, DAYS, 5)
        theirs, _ = performance.mean_return_by_quantile(factor_data, demeaned=demeaned)
        np.testing.assert_allclose(of_days.mean(axis=1), theirs["3D"])
        by_date, _ = performance.mean_return_by_quantile(factor_data, demeaned=demeaned, by_date=True)
        # not their own spread of the two, which in 0.5.1 is half of this difference
        top, bottom = (by_date["3D"].xs(number, level="factor_quantile") for number in (5, 1))
        found = quantile_figures(of_days, None)["top_less_bottom"]
        assert found["mean"] == pytest.approx((top - bottom).mean()) and found["dates"] == DAYS


def test_the_rank_ic_is_that_of_alphalens(rows, factor_data):
    date, _, signal, y_ret = rows
    theirs = performance.factor_information_coefficient(factor_data)["3D"]
    np.testing.assert_allclose(daily_ic(signal, y_ret, date, DAYS).rank_ic, theirs)


@pytest.mark.parametrize("lag", [1, 3, 10])
def test_turnover_and_autocorrelation_are_those_of_alphalens(rows, factor_data, lag):
    date, symbol, signal, _ = rows
    quantile = day_quantiles(signal, date, 5)
    for wanted in (0, 4):
        member = np.zeros(SHAPE, bool)
        member[date[quantile == wanted], symbol[quantile == wanted]] = True
        theirs = performance.quantile_turnover(factor_data["factor_quantile"], wanted + 1, lag)
        np.testing.assert_allclose(share_of_new(member, lag)[lag:], theirs.dropna())
    ranks = by_day_and_symbol(day_ranks(signal, date), date, symbol, SHAPE)
    theirs = performance.factor_rank_autocorrelation(factor_data, lag)
    np.testing.assert_allclose(rank_autocorrelation(ranks, lag)[lag:], theirs[lag:])


@pytest.mark.parametrize(
    ("values", "count", "quantiles"),
    [
        ([3, 1, 2, 5, 4], 5, [2, 0, 1, 4, 3]),
        ([1, 2, 3, 4, 5, 6], 5, [0, 1, 2, 2, 3, 4]),
        ([1, 2, 3, 4, 5, 6, 7], 3, [0, 0, 1, 1, 1, 2, 2]),
        ([1, 1, 1, 2, 3], 5, [1, 1, 1, 3, 4]),
        ([1, 2, 3, 4], 5, [NONE] * 4),
        ([7, 7, 7, 7, 7], 5, [NONE] * 5),
        ([1], 1, [NONE]),
    ],
)
def test_quantiles_of_a_day(values, count, quantiles):
    date = np.zeros(len(values), np.int64)
    assert day_quantiles(np.array(values, float), date, count).tolist() == quantiles


def test_an_order_upside_down_swaps_the_quantiles():
    rng = np.random.default_rng(1)
    date = np.repeat(np.arange(40), np.arange(5, 45))
    signal = rng.normal(size=len(date))
    np.testing.assert_array_equal(day_quantiles(-signal, date, 5), 4 - day_quantiles(signal, date, 5))


def test_no_rows_have_no_quantiles():
    assert len(day_quantiles(np.empty(0), np.empty(0, np.int64), 5)) == 0


def test_figures_by_hand_and_their_intervals():
    of_days = np.array([[-0.02, -0.01, -0.03, 0.00], [0.0, 0.01, np.nan, 0.02], [0.03, 0.02, 0.01, 0.02]])
    found = quantile_figures(of_days, BlockBootstrap.draw(4, 1, 400, 0))
    assert [of["mean"] for of in found["by_quantile"]] == pytest.approx([-0.015, 0.01, 0.02])
    assert found["by_quantile"][1]["dates"] == 3
    spread = found["top_less_bottom"]
    assert spread["mean"] == pytest.approx(0.035) and spread["low"] < 0.035 < spread["high"]
    assert found["monotonicity"] == pytest.approx(1) and 0 < found["monotonicity_p"] < 1
    upside_down = quantile_figures(of_days[::-1], BlockBootstrap.draw(4, 1, 400, 0))
    assert upside_down["monotonicity"] == pytest.approx(-1)
    assert upside_down["monotonicity_p"] > found["monotonicity_p"]
    assert upside_down["top_less_bottom"]["mean"] == pytest.approx(-0.035)


def test_rising_quantiles_of_noise_are_rarely_shown():
    """Of twenty levels of 5%, at most a few; returns that rise are shown each time."""
    rng, noise, skill = np.random.default_rng(2), [], []
    for seed in range(60):
        values = rng.normal(0, 0.01, (5, 120))
        draws = BlockBootstrap.draw(120, 5, 300, seed)
        noise.append(quantile_figures(values, draws)["monotonicity_p"])
        rising = values + 0.01 * np.arange(5)[:, None]
        skill.append(quantile_figures(rising, draws)["monotonicity_p"])
    assert np.mean(np.array(noise) < 0.05) <= 0.1 and max(skill) < 0.05


def test_what_no_date_has_is_undefined():
    nothing = {"mean": None, "low": None, "high": None, "dates": 0}
    assert mean_of_days(np.full(9, np.nan), BlockBootstrap.draw(9, 2, 100, 0)) == nothing
    found = quantile_figures(np.full((5, 9), np.nan), BlockBootstrap.draw(9, 2, 100, 0))
    assert found["by_quantile"] == [nothing] * 5 and found["top_less_bottom"] == nothing
    assert found["monotonicity"] is None and found["monotonicity_p"] is None


def test_turnover_and_autocorrelation_of_symbols_that_come_and_go():
    member = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], bool)
    np.testing.assert_allclose(share_of_new(member, 1), [np.nan, np.nan, np.nan, 0.5])
    np.testing.assert_allclose(share_of_new(member, 2), [np.nan, np.nan, 0.5, np.nan])
    assert np.isnan(share_of_new(member, 9)).all()
    gone = np.nan
    ranks = np.array([[1, 2, 3, 4], [2, 1, gone, gone], [1, 2, 4, 3], [4, gone, 1, 2.0]])
    found = rank_autocorrelation(ranks, 2)
    assert np.isnan(found[[0, 1, 3]]).all() and found[2] == pytest.approx(0.8)
    assert np.isnan(rank_autocorrelation(ranks, 4)).all()
    assert np.isnan(rank_autocorrelation(np.full((3, 5), 3.0), 1)).all()
