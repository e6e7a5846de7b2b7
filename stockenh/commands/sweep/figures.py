"""Pictures of a search: its history, the course of each trial, what mattered, and which values did well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stockenh.commands.sweep.show import TrialRow, value_text
from stockenh.report.figure import COLOURS, GREY, legend_above, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Of each state: colour and marker, so that no colour alone tells them apart.
_LOOKS = {"complete": (COLOURS[0], "o"), "pruned": (COLOURS[1], "x"), "running": (COLOURS[2], "^")}


def history(rows: Sequence[TrialRow], metric: str, smaller: bool, path: Path) -> Path:
    """The metric of every trial by number, and the best so far; returns the path written."""
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    for state, (colour, marker) in _LOOKS.items():
        of_state = [(r.number, r.value) for r in rows if r.state == state and r.value is not None]
        if of_state:
            numbers, values = zip(*of_state, strict=True)
            label = state if state != "pruned" else "pruned, at its last epoch"
            axes.scatter(numbers, values, color=colour, marker=marker, label=label, zorder=3)
    best, steps = math.inf if smaller else -math.inf, []
    for row in rows:
        if row.state == "complete" and row.value is not None:
            best = min(best, row.value) if smaller else max(best, row.value)
            steps.append((row.number, best))
    if steps:
        numbers, values = zip(*steps, strict=True)
        axes.step(numbers, values, where="post", color=GREY, linewidth=1.5, label="best so far", zorder=2)
    _bound(axes, [r.value for r in rows if r.value is not None and r.state == "complete"], smaller)
    _whole_numbers(axes)
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{metric} on validation")
    legend_above(axes)
    return save(figure, "Trials of the search", path)


def intermediate(
    trials: Mapping[int, tuple[str, Mapping[int, float]]], best: int | None, metric: str, path: Path
) -> Path:
    """The metric of every trial by epoch; trials maps a number to its state and {epoch: metric}."""
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    told: set[str] = set()
    for number, (state, values) in trials.items():
        colour, marker = _LOOKS.get(state, (GREY, "."))
        epochs = sorted(values)
        style: dict[str, Any] = {"color": colour, "alpha": 0.55, "linewidth": 1.2, "zorder": 2}
        if number == best:
            style = {"color": "black", "linewidth": 2.2, "zorder": 4}
        label = f"trial {number}, the best" if number == best else state
        axes.plot(epochs, [values[e] for e in epochs], label=None if label in told else label, **style)
        if state == "pruned":
            axes.plot(epochs[-1:], [values[epochs[-1]]], marker=marker, color=colour, zorder=3)
        told.add(label)
    _whole_numbers(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{metric} on validation")
    legend_above(axes)
    return save(figure, "Every trial by epoch", path)


def importance(shares: Mapping[str, float], metric: str, complete: int, path: Path) -> Path:
    """Which parameters the metric's variance among complete trials comes from."""
    from matplotlib.ticker import PercentFormatter

    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = new_figure(9, 1.6 + 0.45 * len(ordered))
    axes = figure.add_subplot()
    bars = axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=COLOURS[0])
    axes.bar_label(bars, labels=[f"{share:.0%}" for _, share in ordered], padding=3)
    axes.set_xlim(0, 1.1 * max(share for _, share in ordered))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"share of the variance of {metric} among {complete} complete trials")
    return save(figure, "What mattered", path)


def parallel(rows: Sequence[TrialRow], logs: set[str], metric: str, smaller: bool, path: Path) -> Path:
    """Every complete trial as a line through its values, dark where the metric is good."""
    complete = [row for row in rows if row.state == "complete" and row.value is not None]
    complete.sort(key=lambda row: row.value or 0.0, reverse=smaller)  # the best is drawn last, on top
    names = list(dict.fromkeys(name for row in complete for name in row.params))
    figure = new_figure(max(7.0, 1.7 * (len(names) + 1)), 5)
    axes = figure.add_subplot()
    scales = [_scale([row.params.get(name) for row in complete], name in logs) for name in names]
    scales.append(_scale([row.value for row in complete]))
    shades = _shades(len(complete))
    for shade, row in zip(shades, complete, strict=True):
        told = [row.params.get(name) for name in names] + [row.value]
        heights = [scale.height(value) for scale, value in zip(scales, told, strict=True)]
        axes.plot(range(len(heights)), heights, color=shade, linewidth=1.6, zorder=3)
    for at, scale in enumerate(scales):
        axes.axvline(at, color=GREY, linewidth=0.8, zorder=1)
        for height, text in scale.ticks:
            axes.annotate(text, (at, height), xytext=(4, 0), textcoords="offset points", fontsize=8.5,
                          va="center", zorder=5, bbox={"facecolor": "white", "edgecolor": "none",
                                                       "alpha": 0.75, "pad": 0.8})  # fmt: skip
    axes.set_xticks(range(len(scales)), [*(n.rpartition(".")[2] for n in names), metric])
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(scales) - 0.45)
    drawn = save(figure, f"Values of {len(complete)} complete trials; the darker, the better", path)
    return drawn


class _Scale:
    """One axis of parallel coordinates: where a value stands between 0 and 1, and what is written there."""

    def __init__(self, heights: dict[Any, float], low: float, high: float, log: bool, whole: bool) -> None:
        self.heights, self.low, self.high, self.log = heights, low, high, log
        if heights:
            self.ticks = [(height, value_text(value)) for value, height in heights.items()]
        else:
            ends = {low, high} if low == high else {low, self._back(0.5), high}
            told = [(end, f"{end:g}" if whole and end == int(end) else f"{end:.4g}") for end in sorted(ends)]
            self.ticks = [(self.height(end), text) for end, text in told]

    def height(self, value: Any) -> float:
        if value is None:
            return math.nan
        if self.heights:
            return self.heights[value]
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def _back(self, height: float) -> float:
        if self.log:
            return float(self.low * (self.high / self.low) ** height)
        return self.low + height * (self.high - self.low)


def _scale(values: Sequence[Any], log: bool = False) -> _Scale:
    there = [value for value in values if value is not None]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in there)
    measured = any(isinstance(v, float) for v in there) or len(set(there)) > 4
    if there and numeric and measured:
        return _Scale({}, min(there), max(there), log, all(isinstance(v, int) for v in there))
    distinct = sorted(set(there)) if numeric else list(dict.fromkeys(there))
    steps = max(len(distinct) - 1, 1)
    heights = {value: at / steps if len(distinct) > 1 else 0.5 for at, value in enumerate(distinct)}
    return _Scale(heights, 0.0, 1.0, log=False, whole=True)


def _shades(number: int) -> list[Any]:
    from matplotlib import colormaps

    return list(colormaps["Blues"](np.linspace(0.25, 1.0, number)))


def _bound(axes: Axes, complete: Sequence[float], smaller: bool) -> None:
    """Keeps one hopeless trial from pressing all others into a line."""
    if len(complete) < 4:
        return
    low, middle, high = np.quantile(complete, [0, 0.5, 1])
    room = 4 * max(middle - low if smaller else high - middle, 1e-9)
    if smaller and high > middle + room:
        axes.set_ylim(low - 0.1 * room, middle + room)
        axes.set_title("trials above the frame are left out", loc="right", fontsize=9, color=GREY)
    if not smaller and low < middle - room:
        axes.set_ylim(middle - room, high + 0.1 * room)
        axes.set_title("trials below the frame are left out", loc="right", fontsize=9, color=GREY)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
