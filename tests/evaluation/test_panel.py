"""Figures of a panel: known answers, and rows that are in disorder, missing or few."""

import json

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.exposures import Exposures
from stockenh.evaluation.ic import daily_ic
from stockenh.evaluation.panel import Panel, PanelBars, PanelSettings, is_panel, panel_figures

DAYS, SYMBOLS, HORIZONS, AHEAD = 160, 20, (1, 5), 20
SETTINGS = PanelSettings(5, 10.0, Resampling(None, 200, 0))
NAMES = np.array([f"S{number:02}" for number in range(SYMBOLS)])
CALENDAR = np.busday_offset("2020-06-01", np.arange(DAYS + AHEAD), roll="forward").astype("datetime64[s]")


def market(seed=0):
    """(days, symbols) bar returns, and the simple returns over the next bars."""
    moves = np.random.default_rng(seed).normal(0, 0.01, (DAYS + AHEAD, SYMBOLS))
    wealth = np.cumprod(1 + moves, axis=0)
    return moves, lambda bars: wealth[bars : bars + DAYS] / wealth[:DAYS] - 1


def panel_of(forecast, there=None, order=None, seed=0, with_bars=True):
    """The panel of a forecast, which gets the true returns (days, symbols) of a horizon."""
    moves, ahead = market(seed)
    there = np.ones((DAYS, SYMBOLS), bool) if there is None else there
    date, symbol = np.nonzero(there)
    order = np.arange(len(date)) if order is None else order(len(date))
    date, symbol = date[order], symbol[order]
    returns = np.stack([ahead(h)[date, symbol] for h in HORIZONS], axis=1)
    signals = np.stack([forecast(ahead(h))[date, symbol] for h in HORIZONS], axis=1)
    panel, rows = Panel.of(CALENDAR[date], NAMES[symbol], signals, returns, HORIZONS)
    if not with_bars:
        return panel
    date, symbol = date[rows], symbol[rows]
    rng = np.random.default_rng(1)
    values = rng.normal(size=(DAYS, SYMBOLS, 4))[date, symbol]
    days, symbols = np.unique(date), np.unique(symbol)
    next_ret = np.where(there, moves[1 : DAYS + 1], np.nan)[np.ix_(days, symbols)]
    bars = PanelBars(
        np.stack([ahead(k)[date, symbol] for k in range(1, AHEAD + 1)], axis=1),
        Exposures(values, ("reversal", "momentum", "volatility", "size"), ("",) * 4),
        next_ret,
        rng.uniform(size=DAYS)[days],
    )
    return Panel(**{**vars(panel), "bars": bars})


def noise(returns):
    return np.random.default_rng(5).normal(size=returns.shape)


def figures(panel, settings=SETTINGS):
    return panel_figures(panel, settings)[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_forecast_and_its_reverse(sign):
    found = figures(panel_of(lambda y: sign * y))
    for horizon, of in zip(HORIZONS, found.values(), strict=True):
        assert of["rank_ic"]["mean"] == pytest.approx(sign)
        assert of["monotonicity"] == pytest.approx(sign)
        assert sign * of["top_less_bottom"]["low"] > 0 and sign * of["top_less_bottom"]["mean"] > 0
        assert (of["monotonicity_p"] < 0.01) == (sign > 0)
        # what it repeats is nothing, and what it loses is no more than costs
        assert of["residual"]["mean"] * sign > 0.8
        assert of["decay"][horizon - 1]["mean"] == pytest.approx(sign)
        assert sign * of["tranches"]["sharpe"] > 0 and sign * of["tranches"]["break_even_bps"] > 10
        for part in ("by_year", "by_market_volatility", "by_size", "by_volatility"):
            assert all(each["mean"] == pytest.approx(sign) for each in of[part].values())
        assert list(of["by_year"]) == ["2020", "2021"]


def test_the_reverse_swaps_the_ends():
    one, other = figures(panel_of(lambda y: y)), figures(panel_of(lambda y: -y))
    for of, reverse in zip(one.values(), other.values(), strict=True):
        means = [each["mean"] for each in of["by_quantile"]]
        assert [each["mean"] for each in reverse["by_quantile"]] == pytest.approx(means[::-1])
        assert reverse["turnover_top"]["mean"] == pytest.approx(of["turnover_bottom"]["mean"])
        assert reverse["autocorrelation"]["mean"] == pytest.approx(of["autocorrelation"]["mean"])


def test_a_constant_forecast_has_no_order():
    found, curves = panel_figures(panel_of(np.zeros_like), SETTINGS)
    assert curves == {}
    for of in found.values():
        assert of["rank_ic"]["mean"] is None and of["rank_ic"]["p_holm"] is None
        assert of["top_less_bottom"]["mean"] is None and of["tranches"] is None and of["residual"] is None
        assert of["turnover_top"]["mean"] is None and of["autocorrelation"]["mean"] is None
        assert of["day_mean"]["mean"] is not None
    json.dumps(found, allow_nan=False)


def test_a_random_forecast_is_not_shown_to_order():
    found = figures(panel_of(noise))
    for of in found.values():
        assert abs(of["rank_ic"]["mean"]) < 0.05 and of["rank_ic"]["p_holm"] > 0.05
        assert of["top_less_bottom"]["low"] < 0 < of["top_less_bottom"]["high"]
        assert abs(of["autocorrelation"]["mean"]) < 0.05
        assert of["turnover_top"]["mean"] == pytest.approx(1 - 1 / 5, abs=0.03)
        assert abs(of["residual"]["mean"]) < 0.05


def test_the_order_of_rows_changes_nothing():
    there = np.random.default_rng(2).random((DAYS, SYMBOLS)) < 0.9

    def mixed(y):
        return y + 2 * noise(y)

    shuffled = panel_of(mixed, there, np.random.default_rng(3).permutation)
    assert figures(panel_of(mixed, there)) == figures(shuffled)


def test_only_the_order_within_a_day_counts():
    def moved(y):
        return np.exp(50 * (y + np.sin(np.arange(DAYS))[:, None]))

    one, other = (
        figures(panel_of(lambda y: y + noise(y) / 50)),
        figures(panel_of(lambda y: moved(y + noise(y) / 50))),
    )
    for name in ("rank_ic", "by_quantile", "residual", "decay", "tranches", "turnover_top", "by_size"):
        for horizon, of in one.items():
            assert of[name] == other[horizon][name], name


def test_calendars_that_differ_a_lone_symbol_and_a_late_listing():
    there = np.ones((DAYS, SYMBOLS), bool)
    there[::2, 0] = there[1::3, 1] = False  # their own holidays
    there[:90, 2] = False  # listed later
    there[120:, 3] = False  # ended
    there[10] = np.arange(SYMBOLS) == 4
    there[11] = np.arange(SYMBOLS) < 8
    there[11, :4] = False  # four symbols: no quintiles, but an order
    panel = panel_of(lambda y: y, there)
    found, curves = panel_figures(panel, SETTINGS)
    for of in found.values():
        assert of["rank_ic"]["mean"] == pytest.approx(1) and of["rank_ic"]["dates"] == DAYS - 1
        assert of["top_less_bottom"]["dates"] == DAYS - 2
        assert of["day_mean"]["dates"] == DAYS
    assert all(np.isfinite(curve.net).all() for curve in curves.values())
    json.dumps(found, allow_nan=False)


def test_without_labels_at_the_end_the_newest_days_are_still_traded():
    panel = panel_of(lambda y: y)
    returns = panel.returns.copy()
    returns[panel.date >= DAYS - 5, 1] = np.nan
    found, curves = panel_figures(Panel(**{**vars(panel), "returns": returns}), SETTINGS)
    assert found["h5"]["rank_ic"]["dates"] == DAYS - 5 and found["h1"]["rank_ic"]["dates"] == DAYS
    assert len(curves["h5"].net) == DAYS


def test_a_horizon_without_any_label_is_undefined():
    panel = panel_of(lambda y: y)
    returns = panel.returns.copy()
    returns[:, 1] = np.nan
    found = figures(Panel(**{**vars(panel), "returns": returns}))
    assert found["h5"]["rank_ic"]["dates"] == 0 and found["h5"]["by_year"] == {}
    assert found["h5"]["top_less_bottom"]["mean"] is None and found["h5"]["tranches"]["sharpe"] > 0
    assert found["h1"]["rank_ic"]["p_holm"] == found["h1"]["rank_ic"]["p"]
    json.dumps(found, allow_nan=False)


def test_of_several_rows_of_a_symbol_and_a_day_the_last_counts_and_one_that_is_not_finite_none():
    asof = CALENDAR[[0, 1, 0, 0, 1]]
    symbol, values = np.array(["B", "A", "A", "B", "B"]), np.array([[1.0], [2], [3], [4], [np.nan]])
    panel, rows = Panel.of(asof, symbol, values, values, (1,))
    assert rows.tolist() == [2, 3, 1] and panel.signals[:, 0].tolist() == [3, 4, 2]
    assert panel.symbols.tolist() == ["A", "B"] and panel.date.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("symbols", "is_one"), [(1, False), (4, False), (5, True)])
def test_fewer_than_five_symbols_are_no_panel(symbols, is_one):
    there = np.broadcast_to(np.arange(SYMBOLS) < symbols, (DAYS, SYMBOLS))
    assert is_panel(panel_of(noise, there)) == is_one
    there = there & (np.arange(DAYS) == 3)[:, None]
    assert not is_panel(panel_of(noise, there))
    nothing = np.empty((0, 1))
    assert not is_panel(Panel.of(CALENDAR[:0], NAMES[:0], nothing, nothing, (1,))[0])


def test_more_quantiles_than_symbols_leave_the_rest():
    found, curves = panel_figures(panel_of(lambda y: y), PanelSettings(21, 10.0, SETTINGS.resampling))
    assert curves == {} and found["h1"]["top_less_bottom"]["mean"] is None
    assert found["h1"]["rank_ic"]["mean"] == pytest.approx(1)
    (found, curves) = panel_figures(panel_of(lambda y: y), PanelSettings(20, 10.0, SETTINGS.resampling))
    assert len(found["h1"]["by_quantile"]) == 20 and found["h1"]["tranches"]["sharpe"] > 0


def test_without_bars_what_takes_them_is_left_out():
    found, curves = panel_figures(panel_of(lambda y: y, with_bars=False), SETTINGS)
    for of in found.values():
        names = ("decay", "tranches", "residual", "by_market_volatility", "by_size", "by_volatility")
        assert all(of[name] is None for name in names) and curves == {}
        assert of["by_year"]["2020"]["mean"] == pytest.approx(1)


def test_a_short_part_has_figures_without_intervals():
    there = np.broadcast_to((np.arange(DAYS) < 8)[:, None], (DAYS, SYMBOLS))
    found = figures(panel_of(lambda y: y, there))
    of = found["h5"]
    assert of["rank_ic"]["mean"] == pytest.approx(1) and of["rank_ic"]["low"] is None
    assert of["top_less_bottom"]["low"] is None and of["tranches"]["sharpe_low"] is None
    assert of["decay"][19]["low"] is None and of["by_size"]["low"]["low"] is None
    json.dumps(found, allow_nan=False)


def test_holm_corrects_the_horizons_together():
    found = figures(panel_of(lambda y: y + noise(y) / 8))
    p = sorted((of["rank_ic"]["p"], of["rank_ic"]["p_holm"]) for of in found.values())
    assert p[0][1] == pytest.approx(min(1, 2 * p[0][0])) and p[1][1] >= max(p[1][0], p[0][1])


def test_the_decay_is_the_rank_ic_of_each_number_of_bars():
    panel = panel_of(lambda y: y + noise(y) / 50)
    assert panel.bars is not None
    for of, signal in zip(figures(panel).values(), panel.signals.T, strict=True):
        assert [point["bars"] for point in of["decay"]] == list(range(1, AHEAD + 1))
        for point, y_ret in zip(of["decay"], panel.bars.ahead.T, strict=True):
            mean = daily_ic(signal, y_ret, panel.date, DAYS).rank_ic.mean()
            assert point["mean"] == pytest.approx(mean) and point["dates"] == DAYS
    assert figures(panel)["h5"]["decay"][4]["mean"] == pytest.approx(figures(panel)["h5"]["rank_ic"]["mean"])


def test_the_terciles_are_of_the_days_own_symbols_and_of_the_parts_own_dates():
    """A forecast that orders only the small symbols, and only on calm days."""
    panel = panel_of(lambda y: y)
    bars = panel.bars
    assert bars is not None
    size, calm = (
        bars.exposures.of("size"),
        bars.market_volatility < np.quantile(bars.market_volatility, 1 / 3),
    )
    rank = np.array([(size[panel.date == day] < s).sum() for day, s in zip(panel.date, size, strict=True)])
    is_good = (rank < SYMBOLS / 3) & calm[panel.date]
    signals = np.where(
        is_good[:, None], panel.signals, np.random.default_rng(0).normal(size=panel.signals.shape)
    )
    of = figures(Panel(**{**vars(panel), "signals": signals}))["h5"]
    assert of["by_size"]["low"]["mean"] > 0.25 > 0.1 > abs(of["by_size"]["high"]["mean"])
    by_market = of["by_market_volatility"]
    assert by_market["low"]["mean"] > 0.1 > 0.07 > abs(by_market["high"]["mean"])
    assert sum(each["dates"] for each in by_market.values()) == DAYS
