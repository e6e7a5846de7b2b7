"""What a person sees while a command works and when it is done; nothing moves where there is no terminal."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from stockenh.errors import counted, printable
from stockenh.report.table import findings_summary, number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stockenh.data.findings import Finding
    from stockenh.data.windows import Windows


PART_NAMES = {"train": "train", "val": "validation", "test": "test"}
REFRESH_SECONDS = 0.5


class PlainConsole(Console):
    """Prints text as it is: brackets are no markup, and control characters are shown as escapes.

    Names of symbols, paths and values of a config may come from somebody else.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def styled(text: str, style: str) -> Text:
    """Text in a style, printed as it is."""
    return Text(printable(text), style)


_QUIET: ContextVar[bool] = ContextVar("consoles print nothing", default=False)


@contextmanager
def silence(quiet: bool = True) -> Iterator[None]:
    """Consoles that are made within print nothing; quiet=False: as they are."""
    token = _QUIET.set(quiet or _QUIET.get())
    try:
        yield
    finally:
        _QUIET.reset(token)


def console(stderr: bool = False) -> Console:
    """A console that never cuts a table short where there is no terminal to fit.

    In a notebook it prints as into a pipe: moving lines take a widget there.
    """
    made = PlainConsole(stderr=stderr, highlight=False, quiet=_QUIET.get(), force_jupyter=False)
    if not made.is_terminal:
        made.width = 120
    return made


class PlainFormatter(logging.Formatter):
    """A record is one line, those of a traceback are indented: no value can pass for a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record).replace("\n", "\n    | "))


def print_line(console: Console, text: str) -> None:
    """Prints text with a path in it: as it is, on one line."""
    console.print(text, soft_wrap=True)


def print_files(console: Console, label: str, paths: Iterable[Path]) -> None:
    """Prints where files are, a line each. label: in the first nine columns."""
    for path in paths:
        print_line(console, f"{label:<8} {path}")


PLUGIN_FLAGS: list[str] = []  # those of the command, which another one on its results needs too


def program() -> str:
    """What to type for this program: its name, or where no shell finds that, its path; then its plugins."""
    called, name = Path(sys.argv[0]), "stockenh"
    if called.name == "stockenh" and called.is_file() and not shutil.which("stockenh"):
        name = min(str(called), os.path.relpath(called), key=len)
    return shlex.join([name, *PLUGIN_FLAGS])


def show_data(
    windows: Windows,
    rows: Mapping[str, NDArray[np.int64]],
    findings: Sequence[Finding],
    console: Console,
    warnings: Sequence[str] = (),
) -> None:
    """What was read and how it is split, each part with its dates, and what a reader must know of it."""
    console.print(
        f"data     {counted(len(windows.symbols), 'symbol')}, {counted(len(windows), 'window')} of "
        f"{counted(windows.lookback, 'bar')}"
    )
    for line in findings_summary(findings):
        console.print(f"         {line}")
    for part, of_part in rows.items():
        asof = windows.asof[of_part].astype("datetime64[D]")
        name, n = PART_NAMES[part], len(of_part)
        console.print(
            f"         {name:<10} {n:>9,} window{'s' * (n != 1)} ending {asof.min()} to {asof.max()}"
        )
    if len(rows) > 1:
        labelled = windows.asof[windows.labelled]
        end = max(windows.asof[of_part].max() for of_part in rows.values())
        later = int((labelled > end).sum())
        left = len(labelled) - later - sum(map(len, rows.values()))
        console.print(
            f"         {counted(left, 'window')} purged between the parts: no label reaches into the next"
        )
        if later:
            console.print(f"         {counted(later, 'later window')} of other folds")
    else:
        console.print("         nothing is held out: no early stop, and the last epoch's weights are kept")
    for warning in warnings:
        console.print(f"warning  {warning}", soft_wrap=True)


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
        _print_if_all_skipped(self.progress.console, line)
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


def _print_if_all_skipped(console: Console, line: Mapping[str, Any]) -> None:
    if line["train_loss"] is None:
        console.print(
            f"warning  epoch {line['epoch']}: fp16 skipped every step, so nothing was learned; each time it "
            f"lowered the loss scale. If this goes on, take train.precision=bf16 or fp32",
            soft_wrap=True,
        )


class PrintedProgress:
    """A line per epoch, where the output goes to a file or a pipe."""

    def __init__(self, console: Console, epochs: int) -> None:
        self.console = console
        self.epochs = epochs
        self._began: float | None = None
        self._done = 0.0  # epochs of this session, the rest of a resumed one too

    def start(self, epoch: int, steps: int, done: int) -> None:
        if self._began is None:
            self._began = time.perf_counter()
            self._done = -done / max(steps, 1)

    def advance(self, windows: int, loss: Tensor) -> None:
        pass

    def finish(self, line: dict[str, Any]) -> None:
        _print_if_all_skipped(self.console, line)
        self._done += 1
        seconds = time.perf_counter() - (self._began or 0.0)
        # a run resumed after the last step of an epoch has done nothing yet to go by
        left = (self.epochs - line["epoch"]) * seconds / self._done if self._done > 0 else None
        print_line(self.console, f"epoch    {epoch_line(line, self.epochs, left)}")


def epoch_line(line: Mapping[str, Any], epochs: int, seconds_left: float | None) -> str:
    """`2/6  loss 0.4952  val loss 0.3920  rank IC 0.031 (10 bars)  3,830 windows/s  at most 12 s left`.

    line: of metrics.jsonl; the rank IC is the largest horizon's, where there is one; seconds_left=None:
    not known
    """
    parts = [f"{line['epoch']:>{len(str(epochs))}}/{epochs}", f"loss {number(line['train_loss'])}"]
    if line["val_loss"] is not None:
        parts.append(f"val loss {number(line['val_loss'])}{' best' if line['best'] else ''}")
    found = {int(h.removeprefix("h")): scores.get("rank_ic") for h, scores in line["val"].items()}
    ranked = {bars: rank_ic for bars, rank_ic in found.items() if rank_ic is not None}
    if ranked:
        bars = max(ranked)
        parts.append(f"rank IC {ranked[bars]:+.3f} ({counted(bars, 'bar')})")
    parts.append(f"{line['windows_per_second']:,.0f} windows/s")
    if line["skipped"]:
        parts.append(f"{counted(line['skipped'], 'step')} skipped so far")
    if line["epoch"] < epochs and seconds_left is not None:
        parts.append(f"at most {duration(seconds_left)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def training_progress(
    console: Console, epochs: int, per_epoch: int
) -> Iterator[LiveProgress | PrintedProgress]:
    """A live line on a terminal, a line per epoch elsewhere."""
    if not console.is_terminal:
        yield PrintedProgress(console, epochs)
        return
    loss, val = TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[val]}")
    with _progress(console, TextColumn("{task.description}"), BarColumn(24), loss, val) as progress:
        yield LiveProgress(progress, epochs, per_epoch)


@contextmanager
def counted_progress(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A live line of how much of a long piece of work is done; yields what takes newly done steps."""
    if not console.is_terminal:
        yield lambda done: None
        return
    share = TextColumn("{task.percentage:.0f}%")
    with _progress(console, TextColumn("{task.description}"), BarColumn(24), share) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def counting(console: Console, title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A live line of how many are done of how many, from the first call; nothing where nobody is watching."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    count = TextColumn(f"{{task.completed:,}}/{{task.total:,}} {unit}")
    speed_column = TextColumn("{task.fields[speed]}")
    with _progress(console, TextColumn(title), BarColumn(24), count, speed_column) as progress:
        task = progress.add_task("", total=0, visible=False, speed="")

        def watch(done: int, total: int) -> None:
            speed = f"{found:,.0f} {unit}/s" if (found := progress.tasks[0].speed) else ""
            progress.update(task, completed=done, total=total, visible=True, speed=speed)

        yield watch


def embedding_progress(console: Console) -> AbstractContextManager[Callable[[int, int], None]]:
    """A live line while windows are embedded."""
    return counting(console, "embedding", "windows")


def _progress(console: Console, *columns: ProgressColumn) -> Progress:
    columns = (*columns, TimeRemainingColumn(), TextColumn("left"))
    return Progress(*columns, console=console, transient=True)
