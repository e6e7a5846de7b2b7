"""The next-bar curve: costs, drift, holding and its figures by hand."""

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import BlockBootstrap
from stockenh.evaluation.portfolio import (
    Curve,
    bars_per_year,
    curve_figures,
    excess_figures,
    hold,
    next_bar_curves,
    positions,
    strategy_figures,
    trade,
)

RETURNS = np.array([[0.10, 0.00], [-0.05, 0.02], [0.00, 0.04]])


def test_three_days_of_two_symbols_by_hand():
    wanted = np.array([[0.5, 0.5], [0.5, 0.0], [0.0, -0.5]])
    found = trade(wanted, RETURNS, cost_bps=100)
    np.testing.assert_allclose(found.gross, [0.05, -0.025, -0.02])
    # bought 1; then 0.5238 and 0.4762 are there and 0.5 and 0 wanted; then 0.4872 is there and -0.5 wanted
    first = 0.55 / 1.05 - 0.5 + 0.5 / 1.05
    second = 0.475 / 0.975 + 0.5
    np.testing.assert_allclose(found.turnover, [1, first, second])
    np.testing.assert_allclose(found.net, found.gross - 0.01 * found.turnover)


def test_without_costs_net_is_gross():
    found = trade(np.full((3, 2), 0.5), RETURNS, cost_bps=0)
    assert (found.net == found.gross).all()


def test_holding_trades_once_and_grows_as_the_symbols_do():
    found = hold(np.ones((3, 2), bool), RETURNS, cost_bps=10)
    np.testing.assert_allclose(found.turnover, [1, 0, 0], atol=1e-12)
    grown = (np.prod(1 + RETURNS, axis=0)).mean()
    assert np.prod(1 + found.gross) == pytest.approx(grown)
    assert found.net[0] == pytest.approx(found.gross[0] - 0.001)


def test_a_symbol_that_comes_later_gets_its_share_and_one_that_goes_is_sold():
    there = np.array([[True, False], [True, True], [False, True]])
    returns = np.array([[0.1, 0.0], [0.0, 0.02], [0.0, 0.04]])
    found = hold(there, returns, cost_bps=0)
    np.testing.assert_allclose(found.gross, [0.1, 0.01, 0.04])
    assert found.turnover[1] == pytest.approx(1)  # half of the first sold, half of the second bought
    assert found.turnover[2] == pytest.approx(0.5 / 1.01 + 1 - 0.51 / 1.01)


def test_positions_are_equal_shares_of_what_is_there_and_a_half_is_no_opinion():
    prob = np.array([[0.6, 0.4, 0.5, 0.9]])
    there = np.array([[True, True, True, False]])
    assert positions(prob, there, short=False).tolist() == [[1 / 3, 0, 0, 0]]
    assert positions(prob, there, short=True).tolist() == [[1 / 3, -1 / 3, 0, 0]]


def test_figures_by_hand():
    net = np.array([0.10, -0.20, 0.05, 0.10])
    days = np.busday_offset("2020-01-01", np.arange(4), roll="forward")
    found = curve_figures(Curve(net, net, np.array([1.0, 0, 0, 1.0])), days, None)
    assert found["total"] == pytest.approx(1.1 * 0.8 * 1.05 * 1.1 - 1)
    assert found["drawdown"] == pytest.approx(-0.2)
    assert found["turnover"] == 0.5
    assert found["sharpe"] == pytest.approx(net.mean() / net.std(ddof=1) * 252**0.5)
    assert found["sharpe_low"] is None
    assert excess_figures(Curve(net, net, net), Curve(net - 0.01, net, net), days, None) == {
        "mean": pytest.approx(2.52), "low": None, "high": None,
    }  # fmt: skip


def test_a_first_loss_counts_from_the_wealth_before_it():
    net = np.array([-0.1, 0.05])
    days = np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")
    assert curve_figures(Curve(net, net, net), days, None)["drawdown"] == pytest.approx(-0.1)


def test_who_never_trades_has_no_sharpe():
    flat = trade(np.zeros((40, 2)), np.full((40, 2), 0.01), cost_bps=10)
    days = np.busday_offset("2020-01-01", np.arange(40), roll="forward")
    found = curve_figures(flat, days, BlockBootstrap.draw(40, 5, 100, 0))
    assert (found["total"], found["turnover"], found["sharpe"], found["sharpe_low"]) == (0, 0, None, None)


def test_the_year_is_counted_from_the_dates():
    weeks = np.arange("2020-01-03", "2023-01-03", 7, dtype="datetime64[D]")
    assert bars_per_year(weeks) == pytest.approx(365.25 / 7)
    assert bars_per_year(weeks[:3]) == 252


def test_the_sharpe_interval_holds_the_figure_and_narrows_with_dates():
    rng = np.random.default_rng(0)

    def width(dates: int) -> float:
        net = rng.normal(0.001, 0.01, dates)
        days = np.busday_offset("2000-01-03", np.arange(dates), roll="forward")
        found = curve_figures(Curve(net, net, net), days, BlockBootstrap.draw(dates, 10, 500, 0))
        assert found["sharpe_low"] < found["sharpe"] < found["sharpe_high"]
        return found["sharpe_high"] - found["sharpe_low"]

    assert width(4000) < 0.45 * width(400)


def test_rows_of_any_order_become_curves_and_a_row_without_a_next_bar_is_left_out():
    asof = np.array(["2020-01-02", "2020-01-01", "2020-01-01", "2020-01-03"], "datetime64[D]")
    symbol = np.array(["B", "B", "A", "A"])
    prob, next_ret = np.array([0.4, 0.6, 0.4, 0.9]), np.array([0.02, 0.04, 0.10, np.nan])
    days, curves = next_bar_curves(asof, symbol, prob, next_ret, cost_bps=0)
    assert days.tolist() == asof[[1, 0]].tolist()
    np.testing.assert_allclose(curves["long/flat"].net, [0.02, 0.0])
    np.testing.assert_allclose(curves["long/short"].net, [0.02 - 0.05, -0.02])
    np.testing.assert_allclose(curves["hold"].net, [0.07, 0.02])
    found = strategy_figures(curves, days, None)
    assert found["hold"]["above_hold"] is None
    assert found["long/flat"]["above_hold"]["mean"] == pytest.approx((-0.05 - 0.02) / 2 * 252)
