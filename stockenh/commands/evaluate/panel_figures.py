"""Pictures of a panel: returns by quantile, the curve of the tranches, rank IC by bars ahead and by year."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stockenh.commands.evaluate.figures import Dates, Series, curve_chart
from stockenh.commands.evaluate.tables import EXECUTIONS
from stockenh.report.figure import COLOURS, bars_text, legend_above, new_figure, or_nan, save, short_percent
from stockenh.report.page import Picture

NARROWEST = 9.0  # inches that a title takes

Horizons = Mapping[str, Mapping[str, Any]]
Tranches = tuple[Dates, Mapping[str, Series]]  # days, and the net returns by horizon


def panel_pictures(found: Mapping[str, Any], tranches: Tranches, about: str) -> list[Picture]:
    """The pictures that there are of a panel."""
    panel = found["panel"]
    if panel is None:
        return []
    horizons: Horizons = panel["horizons"]
    made = []
    if any(of["top_less_bottom"]["mean"] is not None for of in horizons.values()):
        made.append(
            Picture(
                "quantiles", "returns by quantile of the forecast", partial(quantiles_chart, horizons, about)
            )
        )
    days, net = tranches
    if net:
        traded = (
            f"{about}\ntop and bottom of {panel['quantiles']} quantiles, {EXECUTIONS[panel['execution']]}; "
            f"costs: {panel['cost_bps']:g} basis points of what is traded"
        )
        held = {f"held {bars_text(horizon)}": returns for horizon, returns in net.items()}
        title = "Top less bottom in tranches after costs"
        draw = partial(curve_chart, days, held, traded, title=title)
        made.append(Picture("tranches", "growth of the top less the bottom in tranches", draw))
    if all(of["decay"] is not None for of in horizons.values()):
        made.append(Picture("decay", "rank IC by bars ahead", partial(decay_chart, horizons, about)))
    return [*made, Picture("years", "rank IC by year", partial(years_chart, horizons, about))]


def quantiles_chart(horizons: Horizons, about: str, path: Path) -> Path:
    """Mean return of every quantile less that of the day, a panel per horizon; returns the path."""
    figure = new_figure(max(3.2 * len(horizons) + 0.8, NARROWEST), 4.4)
    for place, (horizon, of) in enumerate(horizons.items()):
        axes = figure.add_subplot(1, len(horizons), place + 1)
        for number, quantile in enumerate(of["by_quantile"], start=1):
            mean, low, high = (or_nan(quantile[key]) for key in ("mean", "low", "high"))
            axes.bar([number], [mean], width=0.75, color=COLOURS[0 if mean >= 0 else 1], alpha=0.85)
            axes.plot([number, number], [low, high], color="black", linewidth=1.3)
        axes.axhline(0, color="black", linewidth=1, zorder=1)
        axes.set_xticks(range(1, len(of["by_quantile"]) + 1))
        axes.set_xlabel("quantile of the forecast")
        short_percent(axes.yaxis)
        axes.set_title(f"{bars_text(horizon)} ahead", fontsize=10.5)
        if not place:
            axes.set_ylabel("return less the day's mean")
    return save(figure, f"Returns by quantile of the forecast\n{about}\nlines: 95%", path)


def decay_chart(horizons: Horizons, about: str, path: Path) -> Path:
    """Rank IC of each forecast with returns over 1 to K bars; returns the path."""
    figure = new_figure(max(3.2 * len(horizons) + 0.8, NARROWEST), 4.4)
    first = None
    for place, (horizon, of) in enumerate(horizons.items()):
        axes = figure.add_subplot(1, len(horizons), place + 1, sharey=first)
        first = first or axes
        ahead = [point["bars"] for point in of["decay"]]
        mean, low, high = ([or_nan(point[key]) for point in of["decay"]] for key in ("mean", "low", "high"))
        axes.fill_between(ahead, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
        axes.plot(ahead, mean, "o-", color=COLOURS[0], markersize=3.5, linewidth=1.4)
        axes.axhline(0, color="black", linestyle="--", linewidth=1, zorder=1)
        axes.axvline(int(horizon.removeprefix("h")), color=COLOURS[1], linestyle=":", linewidth=1.4)
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.set_xlabel("bars that returns are over")
        axes.set_title(f"forecast of {bars_text(horizon)}", fontsize=10.5)
        if not place:
            axes.set_ylabel("rank IC")
    return save(
        figure, f"Rank IC by bars ahead\n{about}\nbands: 95%; dotted: the forecast's own horizon", path
    )


def years_chart(horizons: Horizons, about: str, path: Path) -> Path:
    """Mean rank IC of every calendar year with its interval, a colour per horizon; returns the path."""
    years = sorted({year for of in horizons.values() for year in of["by_year"]})
    figure = new_figure(max(0.9 * len(years) + 2.5, NARROWEST), 4.4)
    axes = figure.add_subplot()
    step = 0.6 / max(len(horizons), 2)
    for place, (horizon, of) in enumerate(horizons.items()):
        colour, shift = COLOURS[place % len(COLOURS)], step * (place - (len(horizons) - 1) / 2)
        label: str | None = f"{bars_text(horizon)} ahead"
        for number, year in enumerate(years):
            found = of["by_year"].get(year, {})
            mean, low, high = (or_nan(found.get(key)) for key in ("mean", "low", "high"))
            axes.plot([number + shift] * 2, [low, high], color=colour, linewidth=1.8)
            axes.plot([number + shift], [mean], "o", color=colour, markersize=5.5, label=label)
            label = None
    axes.axhline(0, color="black", linestyle="--", linewidth=1, zorder=1)
    axes.set_xticks(range(len(years)), years)
    axes.set_xlim(-0.6, len(years) - 0.4)
    axes.set_ylabel("rank IC")
    legend_above(axes)
    return save(figure, f"Rank IC by year\n{about}\nlines: 95%, where the dates allow it", path)
