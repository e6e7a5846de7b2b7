"""What `bench` shows on the terminal and in bench.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from stockenh.report.figure import COLOURS, GREY, legend_above, new_figure, save
from stockenh.report.table import significant

NAMES = ("figure", "median", "quartiles", "rounds", "aim", "remark")
CAPTION = (
    "Measured in turn, A B A B; quartiles are those of the rounds. The plain recipe: DataLoader over five "
    "tensors, fp32, eager, torch's own layers, the loss read at every step."
)


def benchmark_table(found: Mapping[str, Any]) -> Table:
    """Every figure with its spread, what is aimed at beside it, and a remark."""
    table = Table(title=f"Benchmark on {_where(found)}", caption=CAPTION, title_justify="left",
                  caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)  # fmt: skip
    table.add_column("figure", overflow="fold")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("quartiles", justify="right", no_wrap=True)
    table.add_column("aim, or a remark", overflow="fold")
    for part, figures in groupby(found["figures"], key=lambda figure: figure["part"]):
        table.add_section()
        table.add_row(f"[bold]{part}[/bold]")
        for figure in figures:
            name, value, spread, _, aim, note = _cells(figure)
            table.add_row(name, value, spread, "; ".join(filter(None, (aim, note))))
    return table


def benchmark_markdown(found: Mapping[str, Any]) -> str:
    """The same as a page, a table for each part."""
    lines = [f"# Benchmark on {_where(found)}", "", f"{CAPTION} It took {found['seconds']:.0f} s.", ""]
    for part, figures in groupby(found["figures"], key=lambda figure: figure["part"]):
        lines += [f"## {part.capitalize()}", "", f"| {' | '.join(NAMES)} |", "|---" * 6 + "|"]
        lines += [f"| {' | '.join(_cells(figure))} |" for figure in figures]
        lines.append("")
    return "\n".join(lines)


def _where(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    device = machine["device_name"] or f"{machine['processor']}, {machine['threads']} thread(s)"
    return f"{device}, torch {machine['torch']}, {machine['seconds_are']}, load {machine['load']}"


def _cells(figure: Mapping[str, Any]) -> list[str]:
    value, low, high = figure["value"], figure["low"], figure["high"]
    said = "n/a" if value is None else f"{significant(value)} {figure['unit']}"
    spread = "" if low is None else f"{significant(low)}-{significant(high)}"
    if low is not None and figure["rounds"] == 1:
        spread = "one round"  # the time was over: a busy neighbour shows in it
    aim = figure["aim"] or ""
    if figure["met"] is not None:
        aim += ": met" if figure["met"] else ": missed"
    return [figure["name"], said, spread, str(figure["rounds"] or ""), aim, figure["note"]]


def benchmark_chart(found: Mapping[str, Any], path: Path) -> Path:
    """Ratios on a logarithmic axis, quartiles as whiskers, aims as ticks; returns the path written."""
    ratios = [f for f in found["figures"] if f["unit"] == "times" and f["value"] is not None]
    figure = new_figure(10, 1.6 + 0.3 * max(len(ratios), 1))
    axes = figure.add_subplot()
    parts, named = list(dict.fromkeys(f["part"] for f in ratios)), set[str]()
    for place, ratio in zip(reversed(range(len(ratios))), ratios, strict=True):
        colour = COLOURS[parts.index(ratio["part"]) % len(COLOURS)]
        low, high = (ratio[key] if ratio[key] is not None else ratio["value"] for key in ("low", "high"))
        axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        label = ratio["part"] if ratio["part"] not in named else None
        named.add(ratio["part"])
        axes.plot(ratio["value"], place, "o", color=colour, markersize=6, zorder=3, label=label)
        axes.text(1.01, place, significant(ratio["value"]), transform=axes.get_yaxis_transform(),
                  va="center", fontsize=8.5)  # fmt: skip
        if aim := re.search(r"[\d.]+", ratio["aim"] or ""):
            axes.plot(
                float(aim[0]),
                place,
                "<" if "most" in ratio["aim"] else ">",
                color=GREY,
                markersize=8,
                zorder=2,
            )
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_yticks(range(len(ratios)), [ratio["name"] for ratio in reversed(ratios)], fontsize=8.5)
    axes.set_xlabel("times (dot: median; line: quartiles; triangle: the aim, that side of it)")
    axes.margins(x=0.1, y=0.02)
    legend_above(axes)
    machine = found["machine"]
    device = machine["device_name"] or f"{machine['processor']}, {machine['threads']} thread(s)"
    return save(figure, f"Ratios on {device}", path)
