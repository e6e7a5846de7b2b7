"""Runs the workers of a multirun: in this process, in several of their own, or by a Hydra launcher.

Meanwhile the terminal has a live view, or lines where output is piped.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, Self

from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from rich.console import Console
from rich.live import Live

from stockenh.commands.multirun import stops
from stockenh.commands.multirun.folder import WORKERS
from stockenh.commands.multirun.ray_launcher import LostJob
from stockenh.commands.multirun.stops import Stop, StopSignals
from stockenh.commands.multirun.worker import Worker
from stockenh.config import compose
from stockenh.data.processes import available_cores
from stockenh.errors import StockenhError
from stockenh.storage.untrusted import read_lines

MOST_DEATHS = 3  # of workers in a row without one job ended
PATIENCE_SECONDS = 60.0  # for workers to save their state after a stop
REFRESH_SECONDS = 1.0  # of the view

_SPAWN = multiprocessing.get_context("spawn")


class Jobs(Protocol):
    """The state of all jobs, as the process that launches workers sees it."""

    def count_ended(self) -> int:
        """How many jobs have ended, in whatever way."""

    def has_waiting(self) -> bool:
        """Whether jobs wait that a new worker could take."""

    def is_running(self) -> bool:
        """Whether a job runs in a worker of this command."""

    def stopped(self) -> Stop:
        """What became of the jobs that ran, once a stop has been requested."""


def launch(worker: Worker, size: int, arguments: Sequence[str], jobs: Jobs) -> None:
    """Runs `size` workers until no job waits, or no further job ends.

    arguments: the overrides of every worker's own job, for a launcher. After a signal or by the folder's stop
    file workers save their state, and MultirunStopped follows. Raises StockenhError where workers fail
    repeatedly.
    """
    if not jobs.has_waiting():
        return
    is_launched = worker.config.hydra.runtime.choices["hydra/launcher"] != "basic"
    with stops.heeded(worker.folder, jobs.is_running, waits=is_launched) as signals:
        try:
            if is_launched:
                _run_by_launcher(worker, size, arguments, jobs, signals)
            elif size > 1:
                _run_pool(worker, size, jobs)
            else:
                worker.work(0)
            is_stopped = worker.stopped or signals.requested
            is_stopped = is_stopped or (stops.is_requested(worker.folder) and jobs.has_waiting())
        except KeyboardInterrupt:
            is_stopped = True
    if is_stopped:
        stops.request(worker.folder)
        raise stops.MultirunStopped(jobs.stopped())


def _run_pool(worker: Worker, size: int, jobs: Jobs) -> None:
    """Workers as processes of this machine: one that dies is replaced while jobs wait."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // size)))
    deaths, ended = 0, jobs.count_ended()
    running: dict[int, BaseProcess] = {}
    try:
        running.update((index, _start(worker, index)) for index in range(size))
        while running:
            wait([process.sentinel for process in running.values()])
            for index, process in [*running.items()]:
                if process.exitcode is None:
                    continue
                del running[index]
                if process.exitcode == 0:
                    continue
                deaths, ended = (deaths + 1 if jobs.count_ended() == ended else 1), jobs.count_ended()
                if deaths >= MOST_DEATHS:
                    last = last_line(_output(worker, index))
                    raise StockenhError(f"a worker ended {_cause(process.exitcode)} again and again: {last}")
                if jobs.has_waiting():
                    running[index] = _start(worker, index)
    finally:
        _stop(running.values())


def _start(worker: Worker, index: int) -> BaseProcess:
    arguments = (worker, index, ConfigStore.instance().repo, _output(worker, index))
    process = _SPAWN.Process(target=_work, args=arguments)
    process.start()
    return process


def _work(worker: Worker, index: int, repo: dict[str, Any], output: Path) -> None:
    """A worker's process."""
    os.setsid()  # a terminal's Ctrl-C reaches it through its parent only
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with output.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    version.setbase(compose.VERSION_BASE)
    ConfigStore.instance().repo = repo
    try:
        worker.work(index)
    except KeyboardInterrupt:
        sys.exit(130)
    except StockenhError as error:
        sys.exit(str(error))


def _stop(processes: Collection[BaseProcess]) -> None:
    """Lets workers save their state, and ends those that take too long or at a second Ctrl-C."""
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(max(until - time.monotonic(), 0.0))
    except KeyboardInterrupt:
        pass
    for process in processes:
        process.kill()
        process.join()


def _output(worker: Worker, index: int) -> Path:
    """Where a worker's process prints to."""
    return worker.workers / f"{index}.log"


def last_line(output: Path) -> str:
    """What a process printed last, and where the rest is."""
    lines = "\n".join(read_lines(output)).strip().splitlines()
    return f"{lines[-1]} (more in {output})" if lines else "it printed nothing"


def _cause(code: int) -> str:
    return f"with exit code {code}" if code > 0 else f"by {signal.Signals(-code).name}"


def _run_by_launcher(
    worker: Worker, size: int, arguments: Sequence[str], jobs: Jobs, signals: StopSignals
) -> None:
    """A launcher that lost some workers, or whose time was over, is called again while jobs end or go on."""
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=worker.context, task_function=worker, config=worker.config
    )
    started, before, done = 0, -1, 1
    while jobs.has_waiting() and ((ended := jobs.count_ended()) > before or done):
        before, done, lost = ended, 0, ""
        each = [[*arguments, f"hydra.sweep.subdir={WORKERS}/{started + i}"] for i in range(size)]
        try:
            for job in launcher.launch(each, initial_job_idx=started):
                if isinstance(job, LostJob):
                    lost = job.why
                else:
                    done += job.return_value
        except (StockenhError, KeyboardInterrupt):
            raise
        except Exception as error:
            if signals.requested:
                return
            if not jobs.has_waiting() or jobs.count_ended() == ended:
                cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise StockenhError(f"the launcher's workers failed: {cause}") from error
        if signals.requested or stops.is_requested(worker.folder):
            return
        if lost and not done and jobs.has_waiting() and jobs.count_ended() == ended:
            raise StockenhError(f"the launcher's workers died: {lost}")
        started += len(each)


def show_line(console: Console, label: str, text: object) -> None:
    """`report   PATH`: a line under its label, as long as it is."""
    console.print(f"{label:<8} {text}", soft_wrap=True)


class MultirunWatch(ABC):
    """Looks at a multirun repeatedly, in a thread of its own, for as long as it is entered.

    live: the live view, where the console is a terminal
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    @abstractmethod
    def show(self) -> None:
        """Shows the current state; called once more at the end."""

    def look(self) -> None:
        """What is done at every refresh."""
        self.show()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            self.show()
        finally:
            if self.live is not None:
                self.live.stop()

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH_SECONDS):
            with suppress(Exception):  # a database or disk that is away for a moment is back at the next look
                self.look()


def time_left(seconds: float) -> str:
    """`about 4 min left`."""
    return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {max(seconds, 0):.0f} s left"
