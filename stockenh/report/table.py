"""Figures as tables show them; what is undefined is `n/a`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from stockenh.data.findings import Finding


def interval(low: float | None, high: float | None) -> str:
    """`49.1-57.2`, or `n/a`."""
    return "n/a" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"


def percent(value: float | None, digits: int = 1) -> str:
    """`51.3%`, or `n/a`."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}%"


def number(value: float | None, digits: int = 4) -> str:
    """`0.6931`, or `n/a`."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def folded(text: str, width: int) -> str:
    """The text in lines of at most so many characters, broken behind / . _ - or a space where it has one."""
    lines = [""]
    for piece in re.findall(r"[^/._\- ]*[/._\- ]|[^/._\- ]+", text):
        if len(lines[-1] + piece) > width and lines[-1]:
            lines.append("")
        while len(piece) > width:
            lines[-1], piece = piece[:width], piece[width:]
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def significant(value: float) -> str:
    """Three digits that count: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Grid:
    """Rows in blocks under named columns; those in `left` are words."""

    title: str
    columns: tuple[str, ...]
    blocks: Sequence[Sequence[tuple[str, ...]]]
    caption: str
    left: tuple[str, ...] = ()
    on_screen: bool = True


def new_table(
    title: str | None = None,
    columns: Sequence[str] = (),
    left: Sequence[str] = (),
    caption: str | None = None,
) -> Table:
    """An empty table in the look that all share; columns are of numbers but for those in `left`."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def as_table(grid: Grid) -> Table:
    """For a terminal, an empty line between the blocks."""
    table = new_table(grid.title, grid.columns, grid.left, grid.caption)
    for block in grid.blocks:
        for row in block:
            table.add_row(*row)
        table.add_section()
    return table


def as_markdown(grid: Grid) -> str:
    """A heading, the table, the caption below it."""
    rule = tuple("---" if name in grid.left else "---:" for name in grid.columns)
    rows = [row for block in grid.blocks for row in block]
    lines = [f"| {' | '.join(cells)} |" for cells in (grid.columns, rule, *rows)]
    return "\n".join([f"## {grid.title}", "", *lines, "", grid.caption, ""])


def markdown_header(*names: str) -> list[str]:
    """The first two lines of a Markdown table, all its columns alike."""
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


EXAMPLES = 3  # of the places that a line names
_STYLES = {"error": "red", "drop": "yellow", "warning": "cyan"}


def findings_summary(findings: Sequence[Finding]) -> list[str]:
    """One line per level: how many files and rows are concerned, and the commonest rules."""
    lines = []
    for level, what in (
        ("error", "left out"),
        ("drop", "rows left out"),
        ("warning", "kept, with a warning"),
    ):
        found = [f for f in findings if f.level == level]
        if not found:
            continue
        files = len({f.file for f in found})
        rules = ", ".join(f"{rule} {n}" for rule, n in Counter(f.rule for f in found).most_common(4))
        count = f"{sum(f.rows for f in found)} " if level == "drop" else ""
        lines.append(f"{files} file{'s' * (files != 1)}: {count}{what} ({rules})")
    return lines


def findings_table(findings: Sequence[Finding]) -> Table:
    """What was found, the gravest first; findings of one rule with one fix share a line. Fits 60 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("level")
    table.add_column("where", overflow="fold", max_width=24)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("what, and the fix", overflow="fold", ratio=1)
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for f in sorted(findings, key=lambda f: list(_STYLES).index(f.level)):
        alike.setdefault((f.level, f.rule, f.fix), []).append(f)
    for (level, rule, fix), group in alike.items():
        example = "" if len({f.message for f in group}) == 1 else f"{group[0].symbol or group[0].file}: "
        what = f"[bold]{rule}[/]: {escape(example + group[0].message)}\n[dim]{escape(fix)}[/]"
        rows = sum(f.rows for f in group)
        table.add_row(f"[{_STYLES[level]}]{level}[/]", escape(_where(group)), str(rows or ""), what)
    return table


def _where(group: Sequence[Finding]) -> str:
    """`A.csv from 2020-01-03`, or for several `12 symbols: A, B, C, ...`."""
    first = group[0]
    if len(group) == 1:
        symbol = f" {first.symbol}" if first.symbol and first.symbol not in first.file else ""
        return f"{first.file}{symbol}" + (f"\nfrom {first.date}" if first.date else "")
    symbols, files = (list(dict.fromkeys(getattr(f, of) for f in group)) for of in ("symbol", "file"))
    names, unit = (files, "files") if "" in symbols or len(symbols) == 1 else (symbols, "symbols")
    listed = ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
    dates = [f.date for f in group if f.date]
    return f"{len(names)} {unit}: {listed}" + (f"\nfrom {min(dates)}" if dates else "")
