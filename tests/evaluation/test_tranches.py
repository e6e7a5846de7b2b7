"""Overlapping tranches: by hand, and what must hold of any."""

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import BlockBootstrap
from stockenh.evaluation.portfolio import trade
from stockenh.evaluation.quantiles import day_quantiles
from stockenh.evaluation.tranches import tranche_curve, tranche_figures, tranche_weights

RETURNS = np.array([[0.01, 0, 0, 0, 0.04], [-0.02, 0, 0, 0.03, 0.02], [0.05, -0.01, 0, 0.02, 0.06]])
SIGNALS = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 5, 4], [2, 1, 3, 4, 5.0]])


def weights_of(signals, there=None, count=5):
    there = np.ones(signals.shape, bool) if there is None else there
    date, symbol = np.nonzero(there)
    quantile = day_quantiles(signals[there], date, count)
    return tranche_weights(quantile, date, symbol, signals.shape, count)


def test_three_days_of_five_symbols_by_hand():
    found = tranche_curve(weights_of(SIGNALS), RETURNS, held=2, cost_bps=100)
    # the first day buys half of wealth of E and sells half of wealth of A
    first = 0.5 * 0.04 - 0.5 * 0.01
    e, a = 0.52 / (1 + first), -0.505 / (1 + first)
    # the second one does so with D and A
    second = 0.02 * e - 0.02 * a + 0.5 * 0.03 + 0.5 * 0.02
    e, a = e * 1.02 / (1 + second), a * 0.98 / (1 + second)
    d, other_a = 0.5 * 1.03 / (1 + second), -0.5 * 0.98 / (1 + second)
    # the third closes the first: E is wanted again, A is bought back, B is sold
    third = 0.5 * 0.06 + 0.5 * 0.01 + 0.02 * d + 0.05 * other_a
    np.testing.assert_allclose(found.gross, [first, second, third])
    np.testing.assert_allclose(found.turnover, [1, 1, abs(0.5 - e) - a + 0.5])
    np.testing.assert_allclose(found.net, found.gross - 0.01 * found.turnover)


def test_held_for_one_bar_it_is_the_plain_portfolio():
    weights = weights_of(SIGNALS)
    found, plain = tranche_curve(weights, RETURNS, 1, 10), trade(weights, RETURNS, 10)
    for name in ("gross", "net", "turnover"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name))


def test_an_order_that_stays_is_not_traded_again_where_prices_do_not_move():
    opened = np.tile(weights_of(SIGNALS[:1]), (9, 1))
    found = tranche_curve(opened, np.zeros(opened.shape), held=3, cost_bps=10)
    np.testing.assert_allclose(found.turnover, [2 / 3] * 3 + [0] * 6, atol=1e-12)


def test_the_sides_are_equal_and_a_day_without_an_order_opens_nothing():
    rng = np.random.default_rng(0)
    signals, there = rng.normal(size=(30, 12)), rng.random((30, 12)) < 0.8
    there[3] = np.arange(12) < 4
    signals[5] = 1.0
    weights = weights_of(signals, there)
    assert not weights[[3, 5]].any() and not weights[~there].any()
    others = np.delete(weights, [3, 5], axis=0)
    np.testing.assert_allclose(np.maximum(others, 0).sum(axis=1), 1)
    np.testing.assert_allclose(others.sum(axis=1), 0, atol=1e-12)
    found = tranche_curve(weights, rng.normal(0, 0.01, (30, 12)), 4, 10)
    assert np.isfinite(found.net).all()


def test_at_the_break_even_cost_nothing_is_earned():
    rng = np.random.default_rng(3)
    signals = rng.normal(size=(200, 20))
    returns = 0.002 * signals + rng.normal(0, 0.01, signals.shape)
    days = np.busday_offset("2020-01-01", np.arange(200), roll="forward").astype("datetime64[s]")
    draws = BlockBootstrap.draw(200, 15, 300, 0)
    weights = weights_of(signals)
    found = tranche_figures(tranche_curve(weights, returns, 5, 10), days, draws)
    even = tranche_curve(weights, returns, 5, found["break_even_bps"])
    assert even.net.mean() == pytest.approx(0, abs=1e-12)
    assert found["break_even_low"] < found["break_even_bps"] < found["break_even_high"]
    assert found["sharpe_low"] < found["sharpe"] < found["sharpe_high"] and found["turnover"] > 0
    without = tranche_figures(tranche_curve(weights, returns, 5, 10), days, None)
    assert without["sharpe_low"] is None and without["break_even_low"] is None
    idle = tranche_figures(tranche_curve(0 * weights, returns, 5, 10), days, draws)
    assert idle["break_even_bps"] is None and idle["sharpe"] is None and idle["total"] == 0
