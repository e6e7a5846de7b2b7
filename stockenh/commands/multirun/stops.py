"""A stop that reaches workers on every machine: a file in a multirun's folder, which each worker looks for.

The folder may be untrusted: only whether a regular file is there counts, never what is in it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from stockenh.errors import counted
from stockenh.storage.untrusted import is_file
from stockenh.training.stop import STOP_SIGNALS

STOP = "stop"  # the file's name
LAUNCHER_SECONDS = 120.0  # for a launcher's workers to see the file and to save
LEAVE_SECONDS = 5.0  # for a launcher to end once no job runs: it may still wait for queued workers
LOOK_SECONDS = 0.5


def is_requested(folder: Path) -> bool:
    """Whether the workers of this folder are to stop."""
    return is_file(folder / STOP)


def request(folder: Path) -> None:
    """Lets every worker of this folder stop, on whatever machine; it lasts until the folder is resumed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with suppress(OSError):  # there already, or the disk is full: signals reach this machine's workers
        os.close(os.open(folder / STOP, flags, 0o666))


def withdraw(folder: Path) -> None:
    """Lets workers begin again."""
    if is_requested(folder):
        with suppress(OSError):
            (folder / STOP).unlink()


@dataclass(frozen=True)
class Stop:
    """What became of the jobs that ran when a multirun was stopped.

    saved: how many wait with their state; lost: what ended without saving, each with what is left of it;
    running: what had not ended when the command did
    """

    saved: int
    lost: Sequence[str] = ()
    running: Sequence[str] = ()

    def text(self, jobs: str) -> str:
        """`2 trials saved and given back, 1 lost: trial 3 ...`; jobs: what the jobs are called, as plural."""
        noun, parts = jobs.removesuffix("s"), list[str]()
        whys = {"lost": self.lost, "still running": self.running}
        found = {name: (len(why), f": {'; '.join(why)}") for name, why in whys.items()}
        for name, (number, why) in {"saved and given back": (self.saved, ""), **found}.items():
            if number:
                parts.append(f"{number:,} {name}{why}" if parts else f"{counted(number, noun)} {name}{why}")
        return ", ".join(parts) or f"no {noun} was running"


class MultirunStopped(KeyboardInterrupt):
    """A multirun was stopped by a person; `stop` says what became of its jobs."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self.stop = stop


@dataclass
class StopSignals:
    """What the first signal to the command of a multirun does, and whether there was one.

    waits: whether the command goes on until its launcher ends; else it is interrupted where it is
    """

    folder: Path
    is_running: Callable[[], bool]
    waits: bool
    requested: bool = False
    _over: threading.Event = field(default_factory=threading.Event)

    def note(self, signum: int, frame: FrameType | None) -> None:
        is_first, self.requested = not self.requested, True
        if is_first:
            request(self.folder)
        if not (is_first and self.waits):
            raise KeyboardInterrupt
        threading.Thread(target=self._leave, daemon=True).start()

    def _leave(self) -> None:
        """Interrupts the launcher once no job runs, or after a while, if it has not ended by then."""
        idle, waited = 0.0, 0.0
        while waited < LAUNCHER_SECONDS and idle < LEAVE_SECONDS:
            if self._over.wait(LOOK_SECONDS):
                return
            waited += LOOK_SECONDS
            is_running = True
            with suppress(Exception):  # a database or disk that is away for a moment
                is_running = self.is_running()
            idle = 0.0 if is_running else idle + LOOK_SECONDS
        if not self._over.is_set() and (main := threading.main_thread().ident) is not None:
            signal.pthread_kill(main, signal.SIGINT)

    def end(self) -> None:
        self._over.set()


@contextmanager
def heeded(folder: Path, is_running: Callable[[], bool], waits: bool) -> Iterator[StopSignals]:
    """Turns the first stop signal into the folder's stop file; a second one interrupts at once."""
    signals = StopSignals(folder, is_running, waits)
    before = {number: signal.signal(number, signals.note) for number in STOP_SIGNALS}
    try:
        yield signals
    finally:
        signals.end()
        for number, handler in before.items():
            signal.signal(number, handler)
