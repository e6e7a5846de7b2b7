"""The panel of an evaluation: its rows, and what their bars tell of them.

Legend: n rows (one symbol at one date), D dates, S symbols, K bars ahead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stockenh.commands.evaluate.rows import PartForecasts
from stockenh.config.schema import EvaluateConfig
from stockenh.data.bars import CLOSE, VOLUME, Bars
from stockenh.data.windows import BarWindows, Windows, next_returns, returns_ahead
from stockenh.evaluation.bootstrap import Floats, Resampling
from stockenh.evaluation.exposures import exposures, market_volatility
from stockenh.evaluation.ic import PANEL_SYMBOLS
from stockenh.evaluation.panel import (
    Panel,
    PanelBars,
    PanelSettings,
    is_panel,
    panel_figures,
)
from stockenh.evaluation.portfolio import Curve
from stockenh.evaluation.summary import MODEL

AHEAD = 20  # bars that the decay of a forecast is followed for
EARLY = 20  # dates before the last one of all bars; a symbol that ends sooner has ended

Tranches = tuple[NDArray[np.datetime64], dict[str, Curve]]  # dates (D,), and a curve of them per horizon


def evaluate_panel(
    forecasts: PartForecasts, windows: Windows, wanted: EvaluateConfig, resampling: Resampling
) -> tuple[dict[str, Any] | None, Tranches]:
    """The panel's part of evaluation.json, and dates and curves of the tranches by horizon.

    None where no two dates have as many symbols as a panel needs. windows: the forecasts' among others
    """
    panel = panel_of(forecasts, windows, wanted.execution)
    if not is_panel(panel):
        return None, (panel.days, {})
    horizons, curves = panel_figures(panel, PanelSettings(wanted.quantiles, wanted.cost_bps, resampling))
    bars = panel.bars
    found = {
        "symbols_a_day": float(np.median(panel.symbols_of_days())),
        "fewest": PANEL_SYMBOLS,
        "quantiles": wanted.quantiles,
        "execution": wanted.execution,
        "cost_bps": wanted.cost_bps,
        "exposures": {}
        if bars is None
        else dict(zip(bars.exposures.names, bars.exposures.bars, strict=True)),
        "ended_early": ended_early(windows.bars) if isinstance(windows, BarWindows) else None,
        "horizons": horizons,
    }
    return found, (panel.days, curves)


def panel_of(forecasts: PartForecasts, windows: Windows, execution: Literal["open", "close"]) -> Panel:
    """The model's forecasts of returns with simple returns, whatever the target; with bars where they are of
    use."""
    part = forecasts.part
    signals = np.stack([_signal(forecasts, column) for column in range(len(part.horizons))], axis=1)
    returns = part.y_ret if part.raw_ret is None else part.raw_ret
    panel, order = Panel.of(part.asof, forecasts.symbol, signals, returns, part.horizons)
    if not isinstance(windows, BarWindows) or not is_panel(panel):
        return panel
    rows = rows_of(windows, part.asof[order], forecasts.symbol[order])
    # no bar after those that the labels take, so that evaluate.to ends the decay too
    until = windows.reach(rows, 0).max()
    return replace(panel, bars=_panel_bars(panel, windows, rows, until, execution))


def _signal(forecasts: PartForecasts, column: int) -> Floats:
    signal = forecasts.forecasts[MODEL][column].signal
    assert signal is not None
    return signal.astype(np.float64)


def rows_of(windows: BarWindows, asof: NDArray[np.datetime64], symbol: NDArray[np.str_]) -> NDArray[np.int64]:
    """(n,) the windows of these times and symbols, whatever parts and folds the forecasts were made in."""
    times, names = np.unique(asof), np.array(windows.symbols)
    known = np.flatnonzero(np.isin(windows.asof, times))
    order = np.argsort(names)
    number = np.argsort(order)
    place = np.searchsorted(times, windows.asof[known]) * len(names) + number[windows.symbol[known]]
    wanted = np.searchsorted(times, asof) * len(names) + np.searchsorted(names[order], symbol)
    by_place = np.argsort(place)
    found: NDArray[np.int64] = known[by_place[np.searchsorted(place[by_place], wanted)]]
    return found


def _panel_bars(
    panel: Panel,
    windows: BarWindows,
    rows: NDArray[np.int64],
    until: np.datetime64,
    execution: Literal["open", "close"],
) -> PanelBars:
    bars, end = windows.bars, windows.end[rows]
    steps = np.arange(1, AHEAD + 1)
    ahead = returns_ahead(windows, rows, steps.tolist()).astype(np.float64)
    reached = bars.time[np.minimum(end[:, None] + steps, len(bars) - 1)]
    ahead[reached > until] = np.nan
    close = bars.ohlcv[:, CLOSE]
    begins = bars.offsets[:-1][np.diff(bars.offsets) > 0]
    before = end - begins[np.searchsorted(begins, end, side="right") - 1]
    is_first = np.zeros(len(bars), np.bool_)
    is_first[begins] = True
    times, volatility = market_volatility(close, bars.time, is_first)
    place = np.searchsorted(times, panel.days, side="right") - 1
    return PanelBars(
        ahead,
        exposures(close, close * bars.ohlcv[:, VOLUME], end, before),
        _next_returns(panel, windows, execution),
        np.where(place >= 0, volatility[place], np.nan),
    )


def _next_returns(panel: Panel, windows: BarWindows, execution: Literal["open", "close"]) -> Floats:
    """(D, S) from bars, because a symbol is held on dates too on which it has no row."""
    names = np.array(windows.symbols)
    rows = np.flatnonzero(np.isin(windows.asof, panel.days) & np.isin(names, panel.symbols)[windows.symbol])
    date = np.searchsorted(panel.days, windows.asof[rows])
    symbol = np.searchsorted(panel.symbols, names)[windows.symbol[rows]]
    found = np.full(panel.shape, np.nan)
    found[date, symbol] = next_returns(windows, rows, execution)
    return found


def ended_early(bars: Bars) -> dict[str, Any]:
    """`symbols ended share dates`: how many symbols of these bars end more than so many dates before the last
    date; none of many is a sign of survivorship."""
    calendar = np.unique(bars.time)
    last: dict[str, np.datetime64] = {}
    for series, name in enumerate(bars.symbols):
        stretch = bars.rows(series)
        if stretch.stop > stretch.start:
            last[name] = bars.time[stretch.stop - 1]
    ended = sum(int(np.searchsorted(calendar, time) < len(calendar) - 1 - EARLY) for time in last.values())
    return {"symbols": len(last), "ended": ended, "share": ended / len(last), "dates": EARLY}
