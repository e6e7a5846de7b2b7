"""The figures of a benchmark, and how the terminal, bench.md and bench.png show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from stockenh.commands.measure import Seconds
from stockenh.errors import counted
from stockenh.report.figure import COLOURS, GREY, legend_above, new_figure, save
from stockenh.report.table import markdown_header, markdown_row, new_table, significant
from stockenh.report.terminal import styled

NAMES = ("figure", "median", "quartiles", "rounds", "aim", "remark")
CAPTION = (
    "Measured in turn, A B A B; quartiles are those of the rounds. The plain recipe: DataLoader over five "
    "tensors, fp32, eager, torch's own layers, the loss read at every step."
)
OF_RESULT = (
    "Time to a result: whole runs, one of each recipe per seed; quartiles are those of the seeds. The plain "
    "recipe there: experiment=plain by the project's loop."
)


@dataclass(frozen=True)
class Aim:
    """A limit that a figure should keep, and what would be better still."""

    limit: float
    at_most: bool = False
    hoped: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether the value keeps the limit."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        text = f"{'at most' if self.at_most else 'at least'} {self.limit:g}"
        return text if self.hoped is None else f"{text}, hoped {self.hoped:g}"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    value: the median of `rounds`, None where it was not measured (`note` says why); low, high: the quartiles
    """

    part: str
    name: str
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    aim: Aim | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none, or nothing was measured."""
        return None if self.aim is None or self.value is None else self.aim.is_met(self.value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for bench.json."""
        aim = None if self.aim is None else str(self.aim)
        return {**asdict(self), "aim": aim, "met": self.met}


def median(
    part: str, name: str, unit: str, values: Sequence[float] | Seconds, aim: Aim | None = None, note: str = ""
) -> Figure:
    """The median of several rounds, its quartiles beside it."""
    low, middle, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)).tolist()
    return Figure(part, name, unit, middle, low, high, len(values), aim, note)


def skipped(part: str, name: str, why: str, aim: Aim | None = None) -> Figure:
    """A figure that this machine or this config can't give."""
    return Figure(part, name, rounds=0, aim=aim, note=f"not measured: {why}")


def benchmark_table(found: Mapping[str, Any]) -> Table:
    """Every figure with its spread, its aim beside it, and a remark."""
    table = new_table(f"Benchmark on {_setting(found)}", _caption(found))
    table.add_column("figure", overflow="fold")
    for name in ("median", "quartiles"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("aim, or a remark", overflow="fold")
    for part, figures in groupby(found["figures"], key=lambda figure: figure["part"]):
        table.add_section()
        table.add_row(styled(part, "bold"))
        for figure in figures:
            name, value, spread, _, aim, note = _cells(figure)
            table.add_row(name, value, spread, "; ".join(filter(None, (aim, note))))
    return table


def benchmark_markdown(found: Mapping[str, Any]) -> str:
    """The same as a page, a table for each part."""
    lines = [
        f"# Benchmark on {_setting(found)}",
        "",
        f"{_caption(found)} It took {found['seconds']:.0f} s.",
        "",
    ]
    for part, figures in groupby(found["figures"], key=lambda figure: figure["part"]):
        rows = [markdown_row(_cells(figure)) for figure in figures]
        lines += [f"## {part.capitalize()}", "", *markdown_header(*NAMES), *rows, ""]
    return "\n".join(lines)


def _caption(found: Mapping[str, Any]) -> str:
    """How the parts that were measured are to be read."""
    parts = {figure["part"] for figure in found["figures"]}
    of_result = [OF_RESULT] if "result" in parts else []
    return " ".join([*([CAPTION] if parts - {"machine", "result"} else []), *of_result])


def _device(machine: Mapping[str, Any]) -> str:
    return machine["device_name"] or f"{machine['processor']}, {counted(machine['threads'], 'thread')}"


def _setting(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    return f"{_device(machine)}, torch {machine['torch']}, {machine['seconds_are']}, load {machine['load']}"


def _cells(figure: Mapping[str, Any]) -> list[str]:
    value, low, high, rounds = (figure[key] for key in ("value", "low", "high", "rounds"))
    shown = "n/a" if value is None else f"{significant(value)} {figure['unit']}"
    spread = "" if low is None else f"{significant(low)}-{significant(high)}"
    if low is not None and rounds == 1:
        spread = "one round"  # the time was over: a busy neighbour shows in it
    met = {None: "", True: ": met", False: ": missed"}[figure["met"]]
    return [figure["name"], shown, spread, str(rounds or ""), f"{figure['aim'] or ''}{met}", figure["note"]]


def benchmark_chart(found: Mapping[str, Any], path: Path) -> Path:
    """Ratios on a logarithmic axis, quartiles as lines, aims as triangles; returns the path written."""
    ratios = [f for f in reversed(found["figures"]) if f["unit"] == "times" and f["value"] is not None]
    colours = dict(zip(dict.fromkeys(f["part"] for f in reversed(ratios)), COLOURS, strict=False))
    figure = new_figure(10, 1.6 + 0.3 * max(len(ratios), 1))
    axes = figure.add_subplot()
    for place, ratio in enumerate(ratios):
        colour, value = colours[ratio["part"]], ratio["value"]
        ends = [value if ratio[key] is None else ratio[key] for key in ("low", "high")]
        axes.plot(ends, [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, markersize=6, zorder=3)
        axes.text(1.01, place, significant(value), transform=axes.get_yaxis_transform(), va="center",
                  fontsize=8.5)  # fmt: skip
        if ratio["aim"]:  # "at most 4", "at least 2, hoped 3"
            limit = float(ratio["aim"].split()[2].rstrip(","))
            marker = "<" if "most" in ratio["aim"] else ">"
            axes.plot(limit, place, marker, color=GREY, markersize=8, zorder=2)
    if not ratios:
        axes.text(0.48, 0.5, "no ratio was measured", transform=axes.transAxes, ha="right", va="center")
    for part, colour in colours.items():
        axes.plot([], [], "o", color=colour, markersize=6, label=part)
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_yticks(range(len(ratios)), [ratio["name"] for ratio in ratios], fontsize=8.5)
    axes.set_xlabel("times (dot: median; line: quartiles; triangle: the aim, that side of it)")
    axes.margins(x=0.1)
    axes.set_ylim(-0.7, max(len(ratios), 1) - 0.3)  # whole dots at both ends
    legend_above(axes)
    return save(figure, f"Ratios on {_device(found['machine'])}", path)
