"""What `bench` shows on the terminal and in bench.md."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

from stockenh.tables.figures import significant

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
