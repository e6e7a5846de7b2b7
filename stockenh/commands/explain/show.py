"""Tables and pictures of an explanation, and the reservations that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from stockenh.evaluation.attribution import by_importance
from stockenh.report.figure import (
    COLOURS,
    GREY,
    bars_text,
    grouped_bars,
    legend_above,
    named_rows,
    new_figure,
    save,
    short_percent,
)
from stockenh.report.table import Grid, as_table, interval, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_INPUTS = 12
OUTPUT_TITLES = {"up": "up", "ret": "return"}


def groups_table(attributions: Mapping[str, Mapping[str, Any]]) -> Table:
    """Size of each group of inputs, per output and horizon, and how exactly they add up.

    attributions: output, then horizon, to `Explained.figures`.
    """
    targets = [(output, horizon, f) for output, by in attributions.items() for horizon, f in by.items()]
    names = [f"{OUTPUT_TITLES[output]} {horizon.removeprefix('h')}" for output, horizon, _ in targets]
    groups = [
        (group, *(_size(output, f["groups"][group]["size"]) for output, _, f in targets))
        for group in targets[0][2]["groups"]
    ]
    gaps = [f["completeness"] for _, _, f in targets]
    gap_rows = [
        ("gap, worst window", *(percent(gap["worst"], 3) for gap in gaps)),
        ("gap, mean", *(percent(gap["mean"], 3) for gap in gaps)),
        ("steps", *(str(gap["most_steps"]) for gap in gaps)),
    ]
    return as_table(Grid(
        "What the forecasts come from", ("inputs", *names), [groups, gap_rows],
        "mean size of a group's attribution, in logits for up, in returns for return. gap: how far all "
        "attributions together are from forecast minus baseline, as a share of it. steps: the most that an "
        "integral took", ("inputs",),
    ))  # fmt: skip


def inputs_table(attributions: Mapping[str, Mapping[str, Any]], groups: Mapping[str, str]) -> Table:
    """The single inputs with the largest attributions to the first output."""
    output, targets = next(iter(attributions.items()))
    ranked = by_importance(targets)
    left = len(ranked) - MOST_INPUTS
    names = ("input", "of", *(f"{horizon.removeprefix('h')} bars" for horizon in targets))
    caption = f"mean size of attribution{f', and {left} more in explain.json' if left > 0 else ''}"
    rows = [
        (name, groups[name], *(_size(output, f["inputs"][name]["size"]) for f in targets.values()))
        for name in ranked[:MOST_INPUTS]
    ]
    title = f"The inputs that weigh most for {OUTPUT_TITLES[output]}"
    return as_table(Grid(title, names, [rows], caption, names[:2]))


def weights_table(weights: Mapping[str, Any]) -> Table:
    """The model's own selection weights: the price series, and the static variables with the largest."""
    static = _by_mean(weights["static"])
    left = len(static) - MOST_INPUTS
    blocks = [
        [(name, percent(s["mean"]), interval(s["low"], s["high"])) for name, s in rows]
        for rows in (weights["price"].items(), static[:MOST_INPUTS])
    ]
    return as_table(Grid(
        "The model's own selection weights", ("variable", "mean", "80%"), blocks,
        "weights of the price series sum to 100% at each bar, those of the static variables once a window; "
        f"80%: the middle four fifths of windows{f'. {left} more in explain.json' if left > 0 else ''}",
        ("variable",),
    ))  # fmt: skip


def majority_lines(found: Mapping[str, Any]) -> list[str]:
    """What attributions can't show, and where they explain noise.

    found: `part`, `scores` per horizon, and the horizons that are `no_better_than_majority`.
    """
    lines = ["note     attributions show what the model uses, not what moves the market"]
    if found["part"] != "test":
        return [*lines, "note     the run held nothing out: it may be that only noise is explained"]
    for horizon in found["no_better_than_majority"]:
        m = found["scores"][horizon]
        accuracy = f"{percent(m['accuracy'])} ({interval(m['accuracy_low'], m['accuracy_high'])})"
        lines.append(
            f"note     {horizon.removeprefix('h')} bars: accuracy {accuracy} does not lie above the majority "
            f"class's {percent(m['majority'])}: what is explained is noise"
        )
    return lines


def _size(output: str, value: float) -> str:
    return percent(value, 3) if output == "ret" else number(value)


EXPLAIN_MOST_INPUTS = 15
TITLES = {"up": "probability of up", "ret": "return"}
UNITS = {"up": ", in logits", "ret": ""}

Targets = Mapping[str, Mapping[str, Any]]


def attributions_chart(attributions: Mapping[str, Targets], about: str, path: Path) -> Path:
    """Mean size of attributions: the groups above, the largest single inputs below, a column per output.

    attributions: output, then horizon, to `Explained.figures`. about: the windows. Returns the path written.
    """
    count = len(attributions)
    first = next(iter(attributions.values()))
    groups = len(next(iter(first.values()))["groups"])
    shown = min(EXPLAIN_MOST_INPUTS, len(by_importance(first)))
    figure = new_figure(6.2 * count + 0.6, 1.9 + 0.3 * (groups + shown))
    grid = figure.add_gridspec(2, count, height_ratios=[groups + 1, shown + 1])
    for column, (output, targets) in enumerate(attributions.items()):
        names = list(next(iter(targets.values()))["groups"])
        above = figure.add_subplot(grid[0, column])
        _sizes(above, targets, "groups", names, output)
        kind = "direction" if output == "up" else "return"
        above.set_title(f"{kind}: groups of inputs", fontsize=10.5, pad=22)
        legend_above(above)
        below = figure.add_subplot(grid[1, column])
        _sizes(below, targets, "inputs", by_importance(targets)[:shown], output)
        below.set_title("single inputs, the largest", fontsize=10.5)
        below.set_xlabel(f"mean size of attribution to the {TITLES[output]}{UNITS[output]}")
    return save(figure, f"What the forecasts come from\n{about}", path)


def bars_chart(attributions: Mapping[str, Targets], about: str, path: Path) -> Path:
    """Mean size of the attribution to each price series at each bar, a heat map per horizon of the first
    output; returns the path written. All share one scale, by the square root: one bar may have nearly all."""
    from matplotlib.colors import PowerNorm

    output, targets = next(iter(attributions.items()))
    sizes = {horizon: np.array(list(f["price_by_bar"].values())) for horizon, f in targets.items()}
    most = max(float(of_horizon.max()) for of_horizon in sizes.values()) or 1.0
    figure = new_figure(9, 1.3 + 1.35 * len(sizes))
    panels, image = [], None
    for place, (horizon, of_horizon) in enumerate(sizes.items()):
        axes = figure.add_subplot(len(sizes), 1, place + 1)
        count = of_horizon.shape[1]
        image = axes.imshow(
            of_horizon, aspect="auto", cmap="viridis", norm=PowerNorm(0.5, 0, most), zorder=3,
            interpolation="nearest", extent=(count - 0.5, -0.5, len(of_horizon) - 0.5, -0.5),
        )  # fmt: skip
        axes.set_yticks(range(len(of_horizon)), list(targets[horizon]["price_by_bar"]), fontsize=9)
        axes.set_title(f"{bars_text(horizon)} ahead", fontsize=10.5)
        axes.tick_params(labelbottom=place == len(sizes) - 1)
        panels.append(axes)
    panels[-1].set_xlabel("bars before the forecast")
    assert image is not None
    figure.colorbar(image, ax=panels, label=f"mean size{UNITS[output]}", aspect=30)
    title = f"Where in the window the {TITLES[output]} comes from"
    return save(figure, f"{title}\n{about}", path)


def weights_chart(weights: Mapping[str, Any], about: str, path: Path) -> Path:
    """Selection weights by name with the middle 80% of windows: the price series, and all static variables;
    returns the path written. weights: see `weight_figures`."""
    price, static = weights["price"], dict(_by_mean(weights["static"]))
    figure = new_figure(11, 1.5 + 0.21 * max(len(static), 10))
    panels = ((price, "price series, mean over bars"), (static, "static variables"))
    for place, (rows, title) in enumerate(panels):
        axes = figure.add_subplot(1, 2, place + 1)
        means, lows, highs = (np.array([s[key] for s in rows.values()]) for key in ("mean", "low", "high"))
        at = np.arange(len(rows))
        axes.barh(at, means, color=COLOURS[place], height=0.68, alpha=0.75)
        for y, low, high in zip(at, lows, highs, strict=True):
            axes.plot([low, high], [y, y], color="black", linewidth=1.2, zorder=3)
        axes.axvline(1 / len(rows), color=GREY, linestyle="--", linewidth=1, label="equal weights")
        named_rows(axes, list(rows))
        short_percent(axes.xaxis)
        axes.set_xlim(left=0)
        axes.set_title(title, fontsize=10.5)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    title = f"The model's own selection weights\n{about}; lines: the middle 80% of windows"
    return save(figure, title, path)


def attention_chart(attention: Mapping[str, Sequence[float]], about: str, path: Path) -> Path:
    """Attention of the last bar to each bar, mean over heads and windows; returns the path written.

    attention: `mean`, `low` and `high`, the oldest bar first.
    """
    figure = new_figure(9, 4.6)
    axes = figure.add_subplot()
    ago = range(len(attention["mean"]) - 1, -1, -1)
    axes.fill_between(ago, attention["low"], attention["high"], color=COLOURS[0], alpha=0.25, linewidth=0,
                      label="middle 80% of windows")  # fmt: skip
    axes.plot(ago, attention["mean"], color=COLOURS[0], label="mean")
    axes.axhline(1 / len(ago), color=GREY, linestyle="--", linewidth=1, label="equal attention")
    axes.set_xlim(max(len(ago) - 1, 1), 0)
    axes.set_ylim(bottom=0)
    short_percent(axes.yaxis)
    axes.set_xlabel("bars before the forecast")
    axes.set_ylabel("attention")
    legend_above(axes)
    return save(figure, f"Attention over the window\n{about}", path)


def _sizes(axes: Axes, targets: Targets, kind: str, names: Sequence[str], output: str) -> None:
    """The sizes of `groups` or `inputs`, a bar per horizon."""
    sizes = {h: {name: figures[kind][name]["size"] for name in names} for h, figures in targets.items()}
    grouped_bars(axes, names, sizes)
    if output == "ret":
        short_percent(axes.xaxis)


def _by_mean(spreads: Mapping[str, Mapping[str, float]]) -> list[tuple[str, Mapping[str, float]]]:
    return sorted(spreads.items(), key=lambda item: -item[1]["mean"])
