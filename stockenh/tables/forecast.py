"""The first rows of a forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from stockenh.tables.figures import percent


def forecast_table(rows: Sequence[Mapping[str, Any]], title: str, most: int = 12) -> Table:
    """The first `most` rows of a forecast file; all of them are in the file."""
    more = f"and {len(rows) - most:,} more rows in the files" if len(rows) > most else None
    table = Table(title=title, title_justify="left", caption=more, caption_justify="left",
                  box=box.SIMPLE_HEAD, show_edge=False)  # fmt: skip
    for name in ("symbol", "date", "bars", "return", "up", "+-", "confident"):
        table.add_column(name, justify="left" if name in ("symbol", "date") else "right", no_wrap=True)
    said = {True: "yes", False: "no", None: "n/a"}
    for row in rows[:most]:
        table.add_row(
            escape(row["symbol"]), str(row["date"]), str(row["horizon"]), f"{100 * row['ret']:+.2f}%",
            percent(row["up_prob"]), percent(row["uncertainty"], 3), said[row["confident"]],
        )  # fmt: skip
    return table
