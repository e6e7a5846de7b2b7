"""A table of words, shown on a terminal or written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table


@dataclass(frozen=True)
class Grid:
    """Rows in blocks under named columns; those in `left` are words."""

    title: str
    columns: tuple[str, ...]
    blocks: Sequence[Sequence[tuple[str, ...]]]
    caption: str
    left: tuple[str, ...] = ()
    on_screen: bool = True


def as_table(grid: Grid) -> Table:
    """For a terminal, an empty line between the blocks."""
    table = Table(title=grid.title, title_justify="left", caption=grid.caption, caption_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)  # fmt: skip
    for name in grid.columns:
        table.add_column(name, justify="left" if name in grid.left else "right", no_wrap=True)
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
