"""What the forecasts of a panel of symbols are worth: how they order the symbols of a day, and for how long.

Nothing here depends on the target: forecasts count by their order within a day, and returns are simple ones.

Legend: n rows (one symbol at one date), D dates, S symbols, H horizons, K bars ahead, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, Resampling
from stockenh.evaluation.exposures import Exposures, residual
from stockenh.evaluation.ic import PANEL_SYMBOLS, daily_rank_ics, hac_mean, ic_figures
from stockenh.evaluation.paired import holm
from stockenh.evaluation.portfolio import Curve
from stockenh.evaluation.quantiles import (
    CORRELATION,
    NONE,
    SHARE,
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
from stockenh.evaluation.tranches import tranche_curve, tranche_figures, tranche_weights

TERCILES = ("low", "middle", "high")
SIZE, VOLATILITY = "size", "volatility"  # exposures that symbols are grouped by

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PanelBars:
    """What only bars tell of the rows of a panel.

    ahead: (n, K) simple returns over 1 to K bars, NaN where they end before
    next_ret: (D, S) return from the trade that a date decides to the next, NaN where a symbol has none
    market_volatility: (D,) trailing, NaN where it is not known
    """

    ahead: Floats
    exposures: Exposures
    next_ret: Floats
    market_volatility: Floats


@dataclass(frozen=True)
class Panel:
    """Forecasts of n rows, sorted by date and symbol, one row each; see `Panel.of`.

    days, symbols: (D,) and (S,); date, symbol: (n,) indices of them; signals: (n, H) that order symbols
    returns: (n, H) simple, NaN where there is no label; bars: None where there are none
    """

    days: NDArray[np.datetime64]
    date: Ints
    symbols: NDArray[np.str_]
    symbol: Ints
    signals: Floats
    returns: Floats
    horizons: tuple[int, ...]
    bars: PanelBars | None = None

    @classmethod
    def of(
        cls,
        asof: NDArray[np.datetime64],
        symbol: NDArray[np.str_],
        signals: Floats,
        returns: Floats,
        horizons: tuple[int, ...],
    ) -> tuple[Panel, Ints]:
        """The panel of rows in any order, and which rows it has, in its order.

        Of several rows of a symbol and a date the last one counts. Rows with a forecast that is not finite
        are left out.
        """
        usable = np.flatnonzero(np.isfinite(signals).all(axis=1))
        days, date = np.unique(asof[usable], return_inverse=True)
        names, number = np.unique(symbol[usable], return_inverse=True)
        order = np.lexsort((number, date))
        place = date[order] * len(names) + number[order]
        order = order[np.append(place[1:] != place[:-1], True)] if len(order) else order
        rows = usable[order]
        return cls(days, date[order], names, number[order], signals[rows], returns[rows], horizons), rows

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.days), len(self.symbols)

    def symbols_of_days(self) -> Ints:
        """(D,) how many symbols a date has."""
        return np.bincount(self.date, minlength=len(self.days))


@dataclass(frozen=True)
class PanelSettings:
    """quantiles: Q; cost_bps: of traded value; resampling: of every interval"""

    quantiles: int
    cost_bps: float
    resampling: Resampling


def is_panel(panel: Panel) -> bool:
    """Whether two dates or more have as many symbols as a panel needs."""
    return int((panel.symbols_of_days() >= PANEL_SYMBOLS).sum()) >= 2


def panel_figures(
    panel: Panel, settings: PanelSettings
) -> tuple[dict[str, dict[str, Any]], dict[str, Curve]]:
    """Figures per horizon, as {"h3": {...}, ...}, and the curve of the tranches of each, where it has one.

    rank_ic: see `ic_figures`, with `p_holm`, its p corrected for the number of horizons (Holm 1979)
    by_quantile, top_less_bottom, monotonicity, monotonicity_p: see `quantile_figures`; returns are above the
        mean of their date; day_mean: that mean
    turnover_top, turnover_bottom: share of names that were not in the quantile h dates before
    autocorrelation: of the ranks of a date and of h dates before
    residual: `ic_figures` of what is left of the forecast, see `residual`
    by_year, by_market_volatility, by_size, by_volatility: `hac_mean` of the rank IC by name of the part
    decay: `hac_mean` of the rank IC with returns over 1 to K `bars`; tranches: see `tranche_figures`

    What the bars or the number of symbols don't allow is None.
    """
    draws = settings.resampling.draw(len(panel.days), panel.horizons)
    curves, decays = _tranche_curves(panel, settings), _decays(panel)
    found = {}
    for column, horizon in enumerate(panel.horizons):
        name = f"h{horizon}"
        found[name] = {
            **_of_horizon(panel, column, settings),
            **_persistence(panel, column, settings.quantiles, draws),
            "decay": decays[column],
            "tranches": tranche_figures(curves[name], panel.days, draws) if name in curves else None,
        }
    _correct(found)
    return found, curves


def _correct(found: Mapping[str, dict[str, Any]]) -> None:
    """Adds `p_holm` to the rank IC of each horizon, corrected for those that have a p."""
    tested = [of["rank_ic"] for of in found.values() if of["rank_ic"]["p"] is not None]
    for of in found.values():
        of["rank_ic"]["p_holm"] = None
    for rank_ic, (p, _) in zip(tested, holm([rank_ic["p"] for rank_ic in tested]), strict=True):
        rank_ic["p_holm"] = p


def _of_horizon(panel: Panel, column: int, settings: PanelSettings) -> dict[str, Any]:
    """What takes labels, on the dates that have one."""
    horizon, count = panel.horizons[column], settings.quantiles
    rows = np.flatnonzero(np.isfinite(panel.returns[:, column]))
    signal, y_ret = panel.signals[rows, column], panel.returns[rows, column]
    labelled, date = np.unique(panel.date[rows], return_inverse=True)
    dates = len(labelled)
    draws = settings.resampling.draw(dates, panel.horizons)
    (rank_ic,) = daily_rank_ics(signal[:, None], y_ret, date, dates)
    quantile = day_quantiles(signal, date, count)
    above = quantile_returns(quantile, above_the_day(y_ret, date, dates), date, dates, count)
    (mean,) = quantile_returns(np.zeros_like(date), y_ret, date, dates, 1)
    found: dict[str, Any] = {
        "rank_ic": ic_figures(rank_ic, horizon, draws),
        "day_mean": mean_of_days(mean, draws),
        **quantile_figures(above, draws),
        "by_year": _by_year(rank_ic, panel.days[labelled], horizon),
        **dict.fromkeys(("residual", "by_market_volatility", "by_size", "by_volatility")),
    }
    if panel.bars is None:
        return found
    exposed = panel.bars.exposures
    left = residual(signal, exposed.values[rows], date, dates)
    known = np.isfinite(left)
    (residual_ic,) = daily_rank_ics(left[known, None], y_ret[known], date[known], dates)
    if np.isfinite(residual_ic).any():
        found["residual"] = ic_figures(residual_ic, horizon, draws)
    market = panel.bars.market_volatility[labelled]
    found["by_market_volatility"] = _by_tercile_of_days(rank_ic, market, horizon)
    for name in (SIZE, VOLATILITY):
        if (values := exposed.of(name)) is not None:
            groups = _by_tercile_of_symbols(signal, y_ret, date, dates, values[rows], horizon)
            found[f"by_{name}"] = groups
    return found


def _persistence(panel: Panel, column: int, count: int, draws: BlockBootstrap | None) -> dict[str, Any]:
    """How long the order of a day lasts, of all rows, with a label or without."""
    horizon, signal = panel.horizons[column], panel.signals[:, column]
    quantile = day_quantiles(signal, panel.date, count)
    found = {}
    for name, wanted in (("turnover_top", count - 1), ("turnover_bottom", 0)):
        member = np.zeros(panel.shape, np.bool_)
        rows = quantile == wanted
        member[panel.date[rows], panel.symbol[rows]] = True
        found[name] = mean_of_days(share_of_new(member, horizon), draws, SHARE)
    ranks = by_day_and_symbol(day_ranks(signal, panel.date), panel.date, panel.symbol, panel.shape)
    found["autocorrelation"] = mean_of_days(rank_autocorrelation(ranks, horizon), draws, CORRELATION)
    return found


def _tranche_curves(panel: Panel, settings: PanelSettings) -> dict[str, Curve]:
    """By horizon; symbols that can't be traded at a date are not ordered there."""
    if panel.bars is None:
        return {}
    next_ret = panel.bars.next_ret
    rows = np.isfinite(next_ret[panel.date, panel.symbol])
    date, symbol = panel.date[rows], panel.symbol[rows]
    found = {}
    for column, horizon in enumerate(panel.horizons):
        quantile = day_quantiles(panel.signals[rows, column], date, settings.quantiles)
        opened = tranche_weights(quantile, date, symbol, panel.shape, settings.quantiles)
        if opened.any():
            curve = tranche_curve(opened, np.nan_to_num(next_ret), horizon, settings.cost_bps)
            found[f"h{horizon}"] = curve
    return found


def _decays(panel: Panel) -> list[list[dict[str, Any]] | None]:
    """Of each horizon."""
    if panel.bars is None:
        return [None for _ in panel.horizons]
    found: list[list[dict[str, Any]]] = [[] for _ in panel.horizons]
    for bars, y_ret in enumerate(panel.bars.ahead.T, start=1):
        known = np.isfinite(y_ret)
        of_signals = daily_rank_ics(panel.signals[known], y_ret[known], panel.date[known], len(panel.days))
        for points, rank_ic in zip(found, of_signals, strict=True):
            points.append({"bars": bars, **hac_mean(rank_ic, bars)})
    return [*found]


def _by_year(rank_ic: Floats, days: NDArray[np.datetime64], horizon: int) -> dict[str, dict[str, Any]]:
    years = days.astype("datetime64[Y]")
    return {
        str(year): hac_mean(np.where(years == year, rank_ic, np.nan), horizon) for year in np.unique(years)
    }


def _by_tercile_of_days(rank_ic: Floats, values: Floats, horizon: int) -> dict[str, dict[str, Any]] | None:
    """Terciles of the dates themselves, so their borders are only known afterwards."""
    known = np.isfinite(values)
    tercile = np.full(len(values), NONE)
    tercile[known] = day_quantiles(values[known], np.zeros(known.sum(), np.int64), len(TERCILES))
    if (tercile == NONE).all():
        return None
    return {
        name: hac_mean(np.where(tercile == place, rank_ic, np.nan), horizon)
        for place, name in enumerate(TERCILES)
    }


def _by_tercile_of_symbols(
    signal: Floats, y_ret: Floats, date: Ints, dates: int, values: Floats, horizon: int
) -> dict[str, dict[str, Any]]:
    """The rank IC among the symbols of a tercile of each day's symbols; arrays are (n,)."""
    known = np.isfinite(values)
    tercile = np.full(len(values), NONE)
    tercile[known] = day_quantiles(values[known], date[known], len(TERCILES))
    found = {}
    for place, name in enumerate(TERCILES):
        rows = tercile == place
        (rank_ic,) = daily_rank_ics(signal[rows, None], y_ret[rows], date[rows], dates)
        found[name] = hac_mean(rank_ic, horizon)
    return found
