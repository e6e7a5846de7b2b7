"""Figures as tables show them; what is undefined is `n/a`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from stockenh.errors import counted

if TYPE_CHECKING:
    from stockenh.data.findings import Finding


def interval(low: float | None, high: float | None) -> str:
    """`49.1-57.2`, or `n/a`."""
    return "n/a" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"


def between(low: float | None, high: float | None, scale: float, digits: int) -> str:
    """`-0.012 to 0.034`: a minus between could be a sign."""
    if low is None or high is None:
        return "n/a"
    return f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """`51.3%`, or `n/a`."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}%"


def number(value: float | None, digits: int = 4) -> str:
    """`0.6931`, or `n/a`."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def of_target(name: str) -> str:
    """What follows a title whose figures are of another target than the return itself."""
    return "" if name == "absolute" else f", target {name}"


def significant(value: float) -> str:
    """Three digits that count: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Grid:
    """Rows in blocks under named columns; those in `left` are words, the others numbers."""

    title: str
    columns: Sequence[str]
    blocks: Sequence[Iterable[Sequence[str]]]
    caption: str | None = None
    left: Sequence[str] = ()
    on_screen: bool = True


def leave_out(columns: dict[str, list[str]], dispensable: Sequence[str], width: int) -> list[str]:
    """Removes columns until the rest fits into `width` characters, in this order; returns their names."""
    left_out: list[str] = []
    for name in dispensable:
        longest = (max(map(len, "\n".join((head, *cells)).split("\n"))) for head, cells in columns.items())
        if sum(size + 1 for size in longest) - 1 <= width:
            break
        if columns.pop(name, None) is not None:
            left_out.append(name)
    return left_out


def new_table(
    title: str | None = None,
    caption: str | None = None,
    columns: Sequence[str] = (),
    left: Sequence[str] = (),
) -> Table:
    """An empty table in the look that all share; columns hold numbers, except those in `left`."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def as_table(grid: Grid) -> Table:
    """For a terminal, an empty line between the blocks."""
    table = new_table(grid.title, grid.caption, grid.columns, grid.left)
    for block in grid.blocks:
        for row in block:
            table.add_row(*row)
        table.add_section()
    return table


def as_markdown(grid: Grid) -> str:
    """A heading, the table, the caption below it."""
    rule = tuple("---" if name in grid.left else "---:" for name in grid.columns)
    rows = [row for block in grid.blocks for row in block]
    lines = [markdown_row(cells) for cells in (grid.columns, rule, *rows)]
    return "\n".join([f"## {grid.title}", "", *lines, "", grid.caption or "", ""])


def markdown_row(cells: Iterable[str]) -> str:
    """A line of a Markdown table; a cell's own bars and line breaks stay within it."""
    inner = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(inner)} |"


def markdown_header(*names: str) -> list[str]:
    """The first two lines of a Markdown table, all its columns alike."""
    return [markdown_row(names), "|" + "---|" * len(names)]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; what would break its cells is replaced."""
    clean = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return [*markdown_header(*columns), *(f"| {' | '.join(row)} |" for row in clean)]


def findings_summary(findings: Sequence[Finding]) -> list[str]:
    """One line per level: how many files and rows are concerned, and the commonest rules."""
    lines = []
    for level, what in (
        ("error", "left out"),
        ("drop", "left out"),
        ("warning", "kept, with a warning"),
    ):
        found = [f for f in findings if f.level == level]
        if not found:
            continue
        rules = ", ".join(f"{rule} {n}" for rule, n in Counter(f.rule for f in found).most_common(4))
        count = f"{counted(sum(f.rows for f in found), 'row')} " if level == "drop" else ""
        lines.append(f"{counted(len({f.file for f in found}), 'file')}: {count}{what} ({rules})")
    return lines
