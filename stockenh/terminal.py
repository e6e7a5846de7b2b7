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
EXAMPLES = 3  # of the places that a line names
_STYLES = {"error": "red", "drop": "yellow", "warning": "cyan"}
_DISPENSABLE = ("ties", "Brier", "MAE", "n", "log loss", "AUC")  # in a narrow table, the first first


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


def result_table(parts: dict[str, dict[str, dict[str, Any]]], title: str, width: int = 80) -> Table:
    """Every part and horizon, accuracy beside its interval, the majority class and the limit where known.

    Where `width` columns don't hold all, whole columns go, the least telling first, and the caption says so.
    """
    columns = _result_columns(parts)
    gone = []
    for name in _DISPENSABLE:
        if sum(max(map(len, (head, *cells))) + 1 for head, cells in columns.items()) - 1 <= width:
            break
        gone.append(name)
        del columns[name]
    caption = (
        "accuracy, majority, AUC: without returns of exactly 0 (ties). 95%: moving-block bootstrap over "
        "dates. majority: share of the larger class in that part."
    )
    caption += "" if "MAE" in gone else " MAE: of returns, in raw units."
    if "limit" in columns:
        caption += (
            " limit: expected accuracy of the best forecast there can be. closed: share of the way from "
            "majority to limit."
        )
    caption += f" No room for {', '.join(gone)}: see summary.json." if gone else ""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 0), show_edge=False, caption=caption)  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    rows = list(zip(*columns.values(), strict=True))
    for i, row in enumerate(rows):
        table.add_row(*row, end_section=i + 1 < len(rows) and rows[i + 1][0] != row[0])
    return table


def _result_columns(parts: dict[str, dict[str, dict[str, Any]]]) -> dict[str, list[str]]:
    scores = [(part, horizon, m) for part, horizons in parts.items() for horizon, m in horizons.items()]
    limits = {
        "limit": [percent(m.get("limit_accuracy")) for *_, m in scores],
        "closed": [percent(m.get("gap_closed"), 0) for *_, m in scores],
    }
    if not any("limit_accuracy" in m for *_, m in scores):
        limits = {}
    return {
        "part": [part for part, _, _ in scores],
        "bars": [horizon.removeprefix("h") for _, horizon, _ in scores],
        "n": [str(m["n"]) for *_, m in scores],
        "ties": [percent(m["tie_share"]) for *_, m in scores],
        "accuracy": [percent(m["accuracy"]) for *_, m in scores],
        "95%": [interval(m["accuracy_low"], m["accuracy_high"]) for *_, m in scores],
        "majority": [percent(m["majority"]) for *_, m in scores],
        **limits,
        "log loss": [number(m["log_loss"]) for *_, m in scores],
        "Brier": [number(m["brier"], 3) for *_, m in scores],
        "AUC": [number(m["auc"], 3) for *_, m in scores],
        "MAE": [number(m["mae"]) for *_, m in scores],
    }


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
    windows: Windows,
    rows: Mapping[str, NDArray[np.int64]],
    findings: Sequence[Finding],
    out: Console,
    warnings: Sequence[str] = (),
) -> None:
    """What was read and how it is split, each part with its dates, and what a reader must know of it."""
    out.print(f"data     {len(windows.symbols)} symbols, {len(windows):,} windows of {windows.lookback} bars")
    for line in findings_summary(findings):
        out.print(f"         {line}", markup=False)
    for part, of_part in rows.items():
        asof = windows.asof[of_part].astype("datetime64[D]")
        name, n = PART_NAMES[part], len(of_part)
        out.print(f"         {name:<10} {n:>9,} windows ending {asof.min()} to {asof.max()}")
    if len(rows) > 1:
        labelled = windows.asof[windows.labelled]
        end = max(windows.asof[of_part].max() for of_part in rows.values())
        later = int((labelled > end).sum())
        left = len(labelled) - later - sum(map(len, rows.values()))
        out.print(f"         {left:,} windows purged between the parts: no label reaches into the next")
        if later:
            out.print(f"         {later:,} later windows are those of other folds")
    else:
        out.print("         nothing is held out: no early stop, and the last epoch's weights are kept")
    for warning in warnings:
        out.print(f"warning  {warning}", markup=False, soft_wrap=True)


@contextmanager
def embedding_progress(on: Console) -> Iterator[Callable[[int, int], None]]:
    """A live line while windows are embedded, from the first call of what it gives; silence elsewhere."""
    if not on.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("embedding"), BarColumn(bar_width=24),
        TextColumn("{task.completed:,}/{task.total:,} windows"), TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=on, transient=True) as progress:
        task = progress.add_task("", total=0, visible=False, speed="")

        def watch(done: int, total: int) -> None:
            speed = f"{found:,.0f} windows/s" if (found := progress.tasks[0].speed) else ""
            progress.update(task, completed=done, total=total, visible=True, speed=speed)

        yield watch


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
