"""What a person sees while a run goes on and when it is done; nothing moves where there is no terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stockenh.data.findings import Finding
    from stockenh.data.windows import Windows

PART_NAMES = {"train": "train", "val": "validation", "test": "test"}
REFRESH_SECONDS = 0.5


_RESULT_COLUMNS: dict[str, Callable[[str, str, dict[str, Any]], str]] = {
    "part": lambda part, horizon, m: part,
    "bars": lambda part, horizon, m: horizon.removeprefix("h"),
    "n": lambda part, horizon, m: str(m["n"]),
    "ties": lambda part, horizon, m: percent(m["tie_share"]),
    "accuracy": lambda part, horizon, m: percent(m["accuracy"]),
    "95%": lambda part, horizon, m: interval(m["accuracy_low"], m["accuracy_high"]),
    "majority": lambda part, horizon, m: percent(m["majority"]),
    "limit": lambda part, horizon, m: percent(m.get("limit_accuracy")),
    "closed": lambda part, horizon, m: percent(m.get("gap_closed"), 0),
    "log loss": lambda part, horizon, m: number(m["log_loss"]),
    "Brier": lambda part, horizon, m: number(m["brier"], 3),
    "AUC": lambda part, horizon, m: number(m["auc"], 3),
    "MAE": lambda part, horizon, m: number(m["mae"]),
}
_LIMITS, _MAKE_ROOM = ("limit", "closed"), ("ties", "Brier")


def console(stderr: bool = False) -> Console:
    """A console that never cuts a table short where there is no terminal to fit."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=120)
    return made


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
    """Every finding: what, where, and the fix; the gravest first."""
    table = Table(show_lines=False)
    for name in ("level", "file", "symbol", "from", "rows", "what", "fix"):
        table.add_column(name, justify="right" if name == "rows" else "left", overflow="fold")
    style = {"error": "red", "drop": "yellow", "warning": "cyan"}
    for f in sorted(findings, key=lambda f: list(style).index(f.level)):
        cells = (f.file, f.symbol, f.date, str(f.rows), f"{f.rule}: {f.message}", f.fix)
        table.add_row(f"[{style[f.level]}]{f.level}[/]", *(escape(cell) for cell in cells))
    return table


def result_table(parts: dict[str, dict[str, dict[str, Any]]], title: str) -> Table:
    """Every part and horizon, accuracy beside its interval and the majority class, in 80 columns.

    Where the best possible accuracy is known it stands there too, and ties and Brier score make room.
    """
    limits = any("limit_accuracy" in m for horizons in parts.values() for m in horizons.values())
    columns = [name for name in _RESULT_COLUMNS if name not in (_MAKE_ROOM if limits else _LIMITS)]
    caption = (
        "accuracy, majority, AUC: without returns of exactly 0 (ties). 95%: moving-block bootstrap over "
        "dates. majority: share of the larger class in that part. MAE: of returns, in raw units"
    )
    if limits:
        caption += (
            ". limit: expected accuracy of the best forecast there can be. closed: share of the way from "
            "majority to limit"
        )
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 0), show_edge=False, caption=caption)  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for part, horizons in parts.items():
        for horizon, m in horizons.items():
            table.add_row(*(_RESULT_COLUMNS[name](part, horizon, m) for name in columns))
        table.add_section()
    return table


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


def interval(low: float | None, high: float | None) -> str:
    """`49.1-57.2`, or `n/a`."""
    return "n/a" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"


def percent(value: float | None, digits: int = 1) -> str:
    """`51.3%`, or `n/a`."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}%"


def number(value: float | None, digits: int = 4) -> str:
    """`0.6931`, or `n/a`."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def show_data(
    windows: Windows, rows: Mapping[str, NDArray[np.int64]], findings: Sequence[Finding], out: Console
) -> None:
    """What was read and how it is split, each part with its dates."""
    out.print(f"data     {len(windows.symbols)} symbols, {len(windows):,} windows of {windows.lookback} bars")
    for line in findings_summary(findings):
        out.print(f"         {line}", markup=False)
    for part, of_part in rows.items():
        asof = windows.asof[of_part].astype("datetime64[D]")
        name, n = PART_NAMES[part], len(of_part)
        out.print(f"         {name:<10} {n:>9,} windows ending {asof.min()} to {asof.max()}")
    if len(rows) > 1:
        left = int(windows.labelled.sum()) - sum(map(len, rows.values()))
        out.print(f"         {left:,} windows purged between the parts: no label reaches into the next")
    else:
        out.print("         nothing is held out: no early stop, and the last epoch's weights are kept")


class LiveProgress:
    """Loss, windows per second and time left, drawn at most twice a second."""

    def __init__(self, progress: Progress, epochs: int, per_epoch: int) -> None:
        self.progress = progress
        self.epochs = epochs
        self.per_epoch = per_epoch
        self.task = progress.add_task("", total=epochs * per_epoch, loss="", speed="", val="")
        self._drawn = time.perf_counter()
        self._windows = 0
        self._steps = 0

    def start(self, epoch: int, steps: int, done: int) -> None:
        completed = (epoch - 1) * self.per_epoch + done
        self.progress.update(self.task, description=f"epoch {epoch}/{self.epochs}", completed=completed)

    def advance(self, windows: int, loss: Tensor) -> None:
        self._windows += windows
        self._steps += 1
        now = time.perf_counter()
        passed = now - self._drawn
        if passed > REFRESH_SECONDS:
            self.progress.update(
                self.task,
                advance=self._steps,
                loss=f"loss {float(loss):.4f}",
                speed=f"{self._windows / passed:,.0f} windows/s",
            )
            self._drawn, self._windows, self._steps = now, 0, 0

    def finish(self, line: dict[str, Any]) -> None:
        mark = " best" if line["best"] else ""
        skipped = f" skipped {line['skipped']}" if line["skipped"] else ""
        val = f"val {number(line['val_loss'])}{mark}" if line["val_loss"] is not None else ""
        self.progress.update(self.task, val=val + skipped)
        self._drawn, self._windows, self._steps = time.perf_counter(), 0, 0


class SilentProgress:
    """Nobody is watching."""

    def start(self, epoch: int, steps: int, done: int) -> None:
        pass

    def advance(self, windows: int, loss: Tensor) -> None:
        pass

    def finish(self, line: dict[str, Any]) -> None:
        pass


@contextmanager
def training_progress(on: Console, epochs: int, per_epoch: int) -> Iterator[LiveProgress | SilentProgress]:
    """A live line on a terminal, silence elsewhere."""
    if not on.is_terminal:
        yield SilentProgress()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[val]}"), TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
        TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=on, transient=True) as progress:
        yield LiveProgress(progress, epochs, per_epoch)


@contextmanager
def counted_progress(on: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """How much of a long piece of work is done, on a terminal; yields what to tell it by."""
    if not on.is_terminal:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=on, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
