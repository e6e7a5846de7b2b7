"""Pictures of an evaluation: baselines, coverage, IC over time, the curve of the next bar.

Legend: D dates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stockenh.commands.evaluate.tables import RULES, title
from stockenh.evaluation.ic import hac_mean
from stockenh.report.figure import (
    COLOURS,
    GREY,
    bars_of,
    bars_text,
    legend_above,
    new_figure,
    or_nan,
    percent_axis,
    save,
    short_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Dates = NDArray[np.datetime64]
Series = NDArray[np.floating]


def baselines_chart(
    horizons: Mapping[str, Mapping[str, Any]], own: Sequence[str], about: str, path: Path
) -> Path:
    """Direction accuracy of every forecaster with its interval, a panel per horizon; returns the path.

    horizons: see `evaluate_part`; own: the run's forecasts, in colour; about: the rows, in words.
    """
    names = list(next(iter(horizons.values()))["forecasts"])
    figure = new_figure(3.1 * max(len(horizons), 2) + 1.4, 1.9 + 0.34 * len(names))
    for place, (horizon, found) in enumerate(sorted(horizons.items(), key=lambda item: bars_of(item[0]))):
        axes = figure.add_subplot(1, len(horizons), place + 1)
        for row, name in enumerate(names):
            scores = found["forecasts"][name]
            accuracy, low, high = (or_nan(scores[f"accuracy{end}"]) for end in ("", "_low", "_high"))
            colour = COLOURS[0] if name in own else GREY
            axes.plot([low, high], [row, row], color=colour, linewidth=2, zorder=2)
            axes.plot([accuracy], [row], "o", color=colour, markersize=6, zorder=3)
        if found["majority"] is not None:
            axes.axvline(found["majority"], color=COLOURS[1], linestyle="--", linewidth=1.2, zorder=1,
                         label="larger class of these rows")  # fmt: skip
        axes.set_yticks(range(len(names)), [title(name) for name in names] if not place else [])
        axes.set_ylim(len(names) - 0.5, -0.5)
        short_percent(axes.xaxis)
        axes.set_title(f"{bars_text(horizon)} ahead", fontsize=10.5)
    _legend_below(figure)
    return save(figure, f"Direction accuracy beside the baselines\n{about}; lines: 95%", path)


def coverage_chart(
    coverage: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], about: str, path: Path
) -> Path:
    """Accuracy of the forecasts that a rule keeps by their share, a panel per horizon and a line per rule;
    returns the path.

    coverage: see `coverage_by_rule`
    """
    horizons = list(next(iter(coverage.values())))
    figure = new_figure(3.4 * max(len(horizons), 2) + 0.6, 4.4)
    first: Axes | None = None
    for place, horizon in enumerate(horizons):
        axes = figure.add_subplot(1, len(horizons), place + 1, sharey=first)
        first = first or axes
        for (rule, by_horizon), colour in zip(coverage.items(), COLOURS, strict=False):
            kept, accuracy, low, high, majority = (
                [or_nan(point[key]) for point in by_horizon[horizon]]
                for key in ("coverage", "accuracy", "low", "high", "majority")
            )
            axes.fill_between(kept, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(kept, accuracy, "o-", color=colour, markersize=4, label=RULES[rule])
            label = f"larger class of {rule}'s rows"
            axes.plot(kept, majority, "--", color=colour, linewidth=1.2, label=label)
        axes.set_title(f"{bars_text(horizon)} ahead", fontsize=10.5)
        axes.set_xlabel("share of forecasts kept")
        short_percent(axes.xaxis)
        percent_axis(axes)
        if not place:
            axes.set_ylabel("direction accuracy")
    _legend_below(figure)
    return save(figure, f"Accuracy of the forecasts that a rule keeps\n{about}; bands: 95%", path)


def ic_chart(daily: Mapping[str, tuple[Dates, Series]], about: str, path: Path) -> Path:
    """Running sum of the daily rank IC with a band, a panel per horizon; returns the path.

    daily: per horizon the dates (D,) that have a rank IC, and it. The band is 95% at each date by itself, by
    Newey and West's error of the mean over all dates; there is none where these are too few.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure = new_figure(max(3.3 * len(daily) + 0.6, 9), 4.4)
    first: Axes | None = None
    has_band = False
    for place, (horizon, (days, values)) in enumerate(daily.items()):
        axes = figure.add_subplot(1, len(daily), place + 1, sharey=first)
        first = first or axes
        total, colour = np.cumsum(values), COLOURS[place % len(COLOURS)]
        mean = hac_mean(values.astype(np.float64), bars_of(horizon))
        if mean["low"] is not None and mean["high"] is not None:
            # the sum of t dates has sqrt(t / D) times the error of that of all D
            share = np.arange(1, len(values) + 1) / len(values)
            half = (mean["high"] - mean["low"]) / 2 * len(values) * np.sqrt(share)
            axes.fill_between(days, total - half, total + half, color=colour, alpha=0.18, linewidth=0)
            has_band = True
        axes.plot(days, total, color=colour, linewidth=1.4)
        axes.axhline(0, color="black", linestyle="--", linewidth=1, zorder=1)
        axes.set_title(f"{bars_text(horizon)} ahead: mean {values.mean():+.3f}", fontsize=10.5)
        locator = AutoDateLocator(minticks=3, maxticks=6)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
        if place == 0:
            axes.set_ylabel("sum of daily rank IC so far")
    band = "bands: 95% at each date" if has_band else "too few dates for a band"
    return save(figure, f"Rank IC over time\n{about}\n{band}", path)


def curve_chart(
    days: Dates, net: Mapping[str, Series], about: str, path: Path, title: str = "From bar to bar after costs"
) -> Path:
    """Wealth after costs of every strategy above, its distance from the last peak below; returns the path.

    days: (D,) of the decisions; net: (D,) returns from trade to trade, by strategy.
    """
    figure = new_figure(9, 5.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1.2))
    wealth_axes = figure.add_subplot(grid[0])
    loss_axes = figure.add_subplot(grid[1], sharex=wealth_axes)
    for place, (name, returns) in enumerate(net.items()):
        wealth = np.concatenate([[1.0], np.cumprod(1 + returns)])
        colour = GREY if name == "hold" else COLOURS[place % len(COLOURS)]
        width = (2.8, 1.3, 1.1)[place % 3] if "hold" in net else 1.4  # so that two equal strategies are seen
        label = f"{name}: {wealth[-1] - 1:+.1%}"
        wealth_axes.plot(days, wealth[1:], color=colour, linewidth=width, label=label)
        below = wealth / np.maximum.accumulate(wealth) - 1
        loss_axes.plot(days, below[1:], color=colour, linewidth=width)
    wealth_axes.axhline(1, color="black", linestyle="--", linewidth=1, zorder=1)
    wealth_axes.set_ylabel("wealth, from 1")
    wealth_axes.tick_params(labelbottom=False)
    loss_axes.set_ylabel("below peak")
    short_percent(loss_axes.yaxis)
    legend_above(wealth_axes)
    return save(figure, f"{title}\n{about}", path)


def _legend_below(figure: Figure) -> None:
    """One legend for all panels, which show the same."""
    entries = figure.axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
