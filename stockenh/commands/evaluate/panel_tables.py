"""The tables of a panel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockenh.commands.evaluate.tables import (
    EXECUTIONS,
    Cells,
    Found,
    bars,
    bound_of,
    ends,
    p_text,
    signed,
)
from stockenh.report.table import Grid, between, number, percent

NO_MEAN: Mapping[str, Any] = {"mean": None, "low": None, "high": None}
PARTS = {
    "by_year": "year",
    "by_market_volatility": "market volatility",
    "by_size": "size",
    "by_volatility": "volatility",
}


def panel_grids(found: Found) -> list[Grid]:
    """All tables of a panel; those not on_screen hold what a terminal has no room for."""
    panel = found["panel"]
    if panel is None:
        return []
    made = [_order(found)]
    each = list(panel["horizons"].values())
    has_quantiles = any(of["top_less_bottom"]["mean"] is not None for of in each)
    if has_quantiles:
        made.append(_ends_of_order(found))
    if any(of["tranches"] is not None for of in each):
        made.append(_tranches(found))
    if has_quantiles:
        made.append(_quantiles(found))
    made += [_persistence(found), _parts(found)]
    return [*made, _decay(found)] if each[0]["decay"] is not None else made


def _order(found: Found) -> Grid:
    rows, panel = [], found["panel"]
    for horizon, of in panel["horizons"].items():
        rank, left, lasting = of["rank_ic"], of["residual"] or NO_MEAN, of["autocorrelation"]
        rows.append(
            (
                bars(horizon), number(rank["mean"], 3), ends(rank, 1, 3), p_text(rank["p_holm"]),
                number(left["mean"], 3), ends(left, 1, 3), number(lasting["mean"], 2),
            )
        )  # fmt: skip
    exposures = ", ".join(f"{name} ({over})" for name, over in panel["exposures"].items())
    left_of = f" left: rank IC left when {exposures} are taken out;" if exposures else ""
    return Grid(
        f"Order of the day's symbols, {found['part']}",
        ("bars", "rank IC", "95%", "p", "left", "95%", "lasting"),
        [rows],
        f"{panel['symbols_a_day']:g} symbols a day, by the model's return. p: Holm's, two-sided;{left_of} "
        "lasting: correlation of the day's ranks with those so many bars before",
    )


def _ends_of_order(found: Found) -> Grid:
    rows, count = [], found["panel"]["quantiles"]
    for horizon, of in found["panel"]["horizons"].items():
        bottom, top, between_them = of["by_quantile"][0], of["by_quantile"][-1], of["top_less_bottom"]
        rows.append(
            (
                bars(horizon), signed(bottom["mean"], 100, 2), signed(top["mean"], 100, 2),
                signed(between_them["mean"], 100, 2), ends(between_them, 100, 2),
                number(of["monotonicity"], 2), percent(of["turnover_bottom"]["mean"], 0),
                percent(of["turnover_top"]["mean"], 0),
            )
        )  # fmt: skip
    return Grid(
        f"Returns of the bottom and the top of {count} quantiles, {found['part']}",
        ("bars", "bottom", "top", "top less bottom", "95%", "rising", "new below", "new above"),
        [rows],
        "simple return over so many bars less the mean of the day, percent. rising: Spearman's correlation "
        "of quantile and return, 1 where each earns more than the one below; new: share of names that were "
        "not in the quantile so many bars before",
    )


def _tranches(found: Found) -> Grid:
    rows, panel = [], found["panel"]
    for horizon, horizon_figures in panel["horizons"].items():
        of = horizon_figures["tranches"]
        if of is None:
            continue
        rows.append(
            (
                bars(horizon), percent(of["total"]), number(of["sharpe"], 2),
                between(of["sharpe_low"], of["sharpe_high"], 1, 2), percent(of["drawdown"]),
                percent(of["turnover"]), number(of["break_even_bps"], 1),
                between(of["break_even_low"], of["break_even_high"], 1, 1),
            )
        )  # fmt: skip
    return Grid(
        f"Top less bottom in overlapping tranches after costs, {found['part']}",
        ("bars", "growth", "Sharpe", "95%", "drawdown", "a bar", "even", "95%"),
        [rows],
        "each bar opens a tranche for so many bars, long the top and short the bottom of "
        f"{panel['quantiles']} quantiles, {EXECUTIONS[panel['execution']]}, {panel['cost_bps']:g} basis "
        "points of what is traded. a bar: traded share of wealth; even: cost in basis points at which "
        f"nothing is earned{bound_of(panel)}",
    )


def _quantiles(found: Found) -> Grid:
    blocks = []
    for horizon, of in found["panel"]["horizons"].items():
        rows = [
            (bars(horizon), str(place + 1), signed(q["mean"], 100, 3), ends(q, 100, 3), str(q["dates"]), "")
            for place, q in enumerate(of["by_quantile"])
        ]
        spread, mean = of["top_less_bottom"], of["day_mean"]
        p = p_text(of["monotonicity_p"])
        rows.append(
            (bars(horizon), "top less bottom", signed(spread["mean"], 100, 3), ends(spread, 100, 3),
             str(spread["dates"]), p)
        )  # fmt: skip
        rows.append(
            (bars(horizon), "mean of the day", signed(mean["mean"], 100, 3), ends(mean, 100, 3),
             str(mean["dates"]), "")
        )  # fmt: skip
        blocks.append(rows)
    return Grid(
        f"Returns by quantile of the forecast, {found['part']}",
        ("bars", "quantile", "return", "95%", "dates", "p of rising"),
        blocks,
        "simple return over so many bars, percent; that of a quantile is less the mean of the day. p of "
        "rising: that not every quantile earns more than the one below it (Patton and Timmermann 2010)",
        ("quantile",),
        on_screen=False,
    )


def _persistence(found: Found) -> Grid:
    names = ("turnover_bottom", "turnover_top", "autocorrelation")
    rows = []
    for horizon, of in found["panel"]["horizons"].items():
        cells = [bars(horizon)]
        for name in names:
            cells += [number(of[name]["mean"], 3), ends(of[name], 1, 3)]
        rows.append(cells)
    return Grid(
        f"How long the order lasts, {found['part']}",
        ("bars", "new in the bottom", "95%", "new in the top", "95%", "rank autocorrelation", "95%"),
        [rows],
        "share of a quantile's names that were not in it so many bars before; correlation of ranks over that "
        "time",
        on_screen=False,
    )


def _parts(found: Found) -> Grid:
    horizons = found["panel"]["horizons"]
    blocks, columns = [], ["rank IC by", ""]
    for horizon in horizons:
        columns += [f"{bars(horizon)} bars", "95%", "dates"]
    for key, what in PARTS.items():
        names = dict.fromkeys(name for of in horizons.values() for name in of[key] or ())
        ordered = sorted(names) if key == "by_year" else names
        blocks.append([_part_row(horizons, key, what, name) for name in ordered])
    return Grid(
        f"Rank IC by part, {found['part']}",
        tuple(columns),
        blocks,
        "market volatility: terciles of the dates by the volatility of the mean return of all symbols over "
        "the last 60 bars; size and volatility: terciles of each day's symbols, among which the rank IC is. "
        "size: mean dollar volume. Intervals by Newey and West's errors",
        ("rank IC by", ""),
        on_screen=False,
    )


def _part_row(horizons: Found, key: str, what: str, name: str) -> Cells:
    cells = [what, name]
    for of in horizons.values():
        part = (of[key] or {}).get(name, {**NO_MEAN, "dates": 0})
        cells += [number(part["mean"], 3), ends(part, 1, 3), str(part["dates"])]
    return tuple(cells)


def _decay(found: Found) -> Grid:
    horizons, columns = found["panel"]["horizons"], ["bars"]
    for horizon in horizons:
        columns += [f"by {bars(horizon)} bars", "95%"]
    rows = []
    for points in zip(*(of["decay"] for of in horizons.values()), strict=True):
        cells = [str(points[0]["bars"])]
        for point in points:
            cells += [number(point["mean"], 3), ends(point, 1, 3)]
        rows.append(tuple(cells))
    return Grid(
        f"Rank IC with returns over 1 to {len(rows)} bars, {found['part']}",
        tuple(columns),
        [rows],
        "a column for the forecast of each horizon. Intervals by Newey and West's errors",
        on_screen=False,
    )
