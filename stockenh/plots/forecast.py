"""Pictures of forecasts: a row per symbol, or a line through time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockenh.plots.figure import COLOURS, GREY, bars_text, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def forecast_chart(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Forecast probability of up with its uncertainty, a panel per horizon; returns the path written.

    rows: `symbol date horizon up_prob uncertainty confident`. One bar per symbol becomes a list of symbols,
    more become lines through time; beyond 25 symbols or 7 lines, those farthest from 50% are shown.
    """
    horizons = sorted({row["horizon"] for row in rows})
    by_symbol: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_symbol.setdefault(row["symbol"], []).append(row)
    through_time = any(len(of) > len(horizons) for of in by_symbol.values())
    most = len(COLOURS) if through_time else 25
    far = sorted(by_symbol, key=lambda name: -max(abs(r["up_prob"] - 0.5) for r in by_symbol[name]))
    shown = sorted(far[:most])
    draw = _draw_through_time if through_time else _draw_symbols
    height = 4.4 if through_time else 1.9 + 0.24 * max(len(shown), 6)
    figure = new_figure(3.4 * max(len(horizons), 2) + 1.2, height)
    first = None
    for place, horizon in enumerate(horizons):
        axes = figure.add_subplot(1, len(horizons), place + 1, sharex=first, sharey=first)
        first = first or axes
        draw(axes, {name: [r for r in by_symbol[name] if r["horizon"] == horizon] for name in shown})
        axes.set_title(f"{bars_text(f'h{horizon}')} ahead", fontsize=10.5)
        if place:
            axes.tick_params(labelleft=False)
    if through_time:
        first.legend(frameon=False, fontsize=9, ncols=2)  # type: ignore[union-attr]
    of = f" of the {len(shown)} of {len(by_symbol)} symbols farthest from 50%" if len(far) > most else ""
    known = any(row["confident"] is not None for row in rows)
    dots = (
        "dots: confident"
        if through_time
        else "filled: confident; ±: points of standard deviation over the views"
    )
    marks = f"\n{dots}" if known else ""
    return save(figure, f"Calibrated probability of a rise{of}, {_dates(rows)}{marks}", path)


def _dates(rows: Sequence[Mapping[str, Any]]) -> str:
    first, last = (str(pick(row["date"] for row in rows)) for pick in (min, max))
    return f"as of {first}" if first == last else f"{first} to {last}"


def _draw_symbols(axes: Axes, forecasts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line of the list per symbol."""
    for place, of_symbol in enumerate(forecasts.values()):
        for row in of_symbol:
            face = COLOURS[0] if row["confident"] else "white"
            axes.errorbar(
                row["up_prob"], place, xerr=row["uncertainty"] or 0, fmt="o", color=COLOURS[0],
                markerfacecolor=face, markersize=5.5, linewidth=1.4, zorder=3,
            )  # fmt: skip
            if row["uncertainty"] is not None:
                # most bars are shorter than the marker is wide: the number says what they can't
                axes.annotate(
                    f"±{100 * row['uncertainty']:.2f}", (row["up_prob"] + row["uncertainty"], place), (5, 0),
                    textcoords="offset points", va="center", fontsize=7.5, color=GREY, zorder=4,
                )  # fmt: skip
    axes.margins(x=0.14)
    axes.set_yticks(range(len(forecasts)), [name.replace("$", r"\$") for name in forecasts], fontsize=9)
    axes.set_ylim(len(forecasts) - 0.4, -0.6)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.set_xlabel("probability of a rise")


def _draw_through_time(axes: Axes, forecasts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line per symbol, with a dot where it is confident."""
    for colour, (name, of_symbol) in zip(COLOURS, forecasts.items(), strict=False):
        dates = [row["date"] for row in of_symbol]
        label = name.replace("$", r"\$")
        axes.plot(dates, [row["up_prob"] for row in of_symbol], color=colour, linewidth=1.1, label=label)
        sure = [row for row in of_symbol if row["confident"]]
        axes.plot([r["date"] for r in sure], [r["up_prob"] for r in sure], ".", color=colour, markersize=5)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
