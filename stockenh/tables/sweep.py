"""The trials of a search as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from stockenh.tables.figures import number

# What a study calls the states of its trials, and what a person does.
STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waits",
}


@dataclass(frozen=True)
class TrialRow:
    """One trial in figures.

    state:  one of STATES' values
    value:  the metric of a complete trial, else that of its last epoch
    params: by name, in the order of the space
    """

    number: int
    state: str
    value: float | None
    epoch: int | None
    seconds: float | None
    params: Mapping[str, Any] = field(default_factory=dict)
    why: str | None = None


def trials_table(rows: Sequence[TrialRow], best: int | None, metric: str, title: str, caption: str) -> Table:
    """A line per trial; the best is marked."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column("epochs", justify="right")
    table.add_column(metric, justify="right")
    table.add_column("s", justify="right")
    table.add_column("values", overflow="fold", ratio=1)
    for row in rows:
        mark = " *" if row.number == best else ""
        table.add_row(
            str(row.number),
            row.state,
            "" if row.epoch is None else str(row.epoch),
            number(row.value) + mark,
            "" if row.seconds is None else f"{row.seconds:,.0f}",
            row.why or params_text(row.params),
            style="bold" if mark else "dim" if row.state in ("pruned", "failed") else None,
        )
    return table


def params_text(params: Mapping[str, Any]) -> str:
    """`d_model 128, lr 0.00031`: the last part of each name is enough where no other ends alike."""
    lasts = [name.rpartition(".")[2] for name in params]
    names = [last if lasts.count(last) == 1 else name for name, last in zip(params, lasts, strict=True)]
    return ", ".join(f"{n} {value_text(v)}" for n, v in zip(names, params.values(), strict=True))


def value_text(value: Any) -> str:
    """A drawn value as a person reads it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
