"""A run that a tracker follows, in a thread of its own: neither its failures nor its delays reach the run."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from stockenh.errors import RunFolderError, printable_line
from stockenh.report.trackers import (
    Description,
    Figures,
    NotTracked,
    Result,
    Sent,
    Status,
    Tracker,
    Warn,
    figures_of,
    summary_figures,
)
from stockenh.report.trackers.record import MOST_EPOCHS, note_sent, sent_of
from stockenh.storage.run_folder import RunFolder

# How long the end of a run waits for what is left to send. An unreachable server has failed long before.
FINISH_SECONDS = 60.0
LONGEST = 300  # characters of a reason
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")

log = logging.getLogger(__name__)


class Sending:
    """A run on its way to a tracker: what it has already is not sent again. Every method may raise anything.

    done: the last epoch that the tracker has
    """

    def __init__(self, name: str, tracker: Tracker, run: Description) -> None:
        self.name, self.tracker, self.run = name, tracker, run
        self.known = tracker.start(run, sent_of(run.folder, name))
        self.done = self.known.epoch

    def log(self, line: Mapping[str, Any], at: float) -> None:
        """Sends a line of metrics.jsonl; at: when it was written, in seconds since 1970."""
        epoch = line.get("epoch")
        if not isinstance(epoch, int) or not self.done < epoch <= MOST_EPOCHS:
            return
        self.tracker.log(epoch, figures_of(line), at)
        self.done = epoch
        note_sent(self.run.folder, self.name, Sent(epoch))

    def finish(self, status: Status, results: Figures, ended: float) -> None:
        """Sends how the run ended, the figures of its summary, its pictures and its report."""
        folder = RunFolder(self.run.folder)
        summary = summary_of(folder)
        figures = {**summary_figures(summary), **results}
        pruned = summary.get("pruned") is True
        self.tracker.finish(Result(status, figures, files_of(folder), self.done, ended, pruned))
        note_sent(self.run.folder, self.name, Sent(self.done, status))


def summary_of(folder: RunFolder) -> dict[str, Any]:
    """The content of summary.json; empty where there is none, or one that no run writes."""
    with suppress(FileNotFoundError, RunFolderError, OSError):
        found: Any = folder.read_json(folder.summary)
        return found if isinstance(found, dict) else {}
    return {}


def files_of(folder: RunFolder) -> list[Path]:
    """The pictures of a run, and its page where there is one."""
    pages = [folder.path / "report.html", folder.report / "report.html"]
    found = [*sorted(folder.report.glob("*.png")), *pages]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def times_of(lines: Sequence[Mapping[str, Any]], started: float, ended: float) -> list[float]:
    """When each line of metrics.jsonl was written, as far as its seconds of training tell."""
    found, at = [], started
    for line in lines:
        seconds = line.get("seconds")
        at = min(ended, at + (seconds if isinstance(seconds, int | float) and seconds > 0 else 0.0))
        found.append(at)
    return found


class Tracked(NotTracked):
    """Sends a run to its tracker. After the first failure it warns, and nothing more is sent."""

    def __init__(self, name: str, opened: Callable[[], Tracker], warn: Warn) -> None:
        super().__init__(warn)
        self.name, self._open = name, opened
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._sending: Sending | None = None
        self._has_failed = False

    def start(self, describe: Callable[[], Description], lines: Sequence[Mapping[str, Any]] = ()) -> None:
        def task() -> None:
            run = describe()
            self._sending = Sending(self.name, self._open(), run)
            for line, at in zip(lines, times_of(lines, run.started, time.time()), strict=True):
                self._sending.log(line, at)

        self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
        self._tasks.put(task)
        self._thread.start()

    def log(self, line: Mapping[str, Any]) -> None:
        at = time.time()
        self._tasks.put(lambda: self._of_run().log(line, at))

    def finish(self, status: Status) -> None:
        """Waits a while for what is left to send, never for long."""
        if self._thread is None:
            return
        ended = time.time()
        self._tasks.put(lambda: self._of_run().finish(status, self.results, ended))
        self._tasks.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._fail(f"it did not answer within {FINISH_SECONDS:.0f} s")

    def _of_run(self) -> Sending:
        assert self._sending is not None
        return self._sending

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._has_failed:
                continue
            try:
                task()
            except BaseException as error:  # packages of others, which may even raise SystemExit
                self._fail(reason_of(error))

    def _fail(self, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning("tracker=%s failed: %s", self.name, reason)
            self.warn(f"tracker={self.name} failed, and the run goes on without it: {reason}")


def reason_of(error: BaseException) -> str:
    """An error of a tracker as one line without a password."""
    text = " ".join(str(error).split())
    text = _PASSWORD.sub("***", f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return printable_line(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


@contextmanager
def following(tracked: NotTracked, stops: tuple[type[BaseException], ...]) -> Iterator[NotTracked]:
    """Ends a run at its tracker as the block ends; stops: what a requested stop raises."""
    try:
        yield tracked
    except BaseException as end:
        tracked.finish("KILLED" if isinstance(end, (KeyboardInterrupt, SystemExit, *stops)) else "FAILED")
        raise
    tracked.finish("FINISHED")
