"""Workers as processes of this machine, looked after: one that dies is replaced while jobs remain."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from stockenh.commands.multirun.folder import WORKERS
from stockenh.commands.multirun.worker import Worker
from stockenh.config import compose
from stockenh.errors import StockenhError

TICK_SECONDS = 0.5
STRIKES = 3  # deaths of workers in a row without one job ended
PATIENCE_SECONDS = 60.0  # to save where they are, once asked to stop

_SPAWN = multiprocessing.get_context("spawn")


def run_pool(worker: Worker, size: int, ended: Callable[[], int], remain: Callable[[], bool]) -> None:
    """Runs `size` workers until all have nothing left to do.

    ended: how many jobs have ended; remain: whether jobs wait that a new worker could take.
    A Ctrl-C or SIGTERM is passed to every worker once, which then saves where it is; KeyboardInterrupt
    follows. Raises StockenhError where workers die again and again.
    """
    pool = _Pool(worker, size)
    strikes, seen = 0, ended()
    with _sigterm_interrupts(), pool:
        while pool.running:
            wait([process.sentinel for process in pool.running.values()], timeout=TICK_SECONDS)
            for index, process in list(pool.running.items()):
                if process.exitcode is None:
                    continue
                del pool.running[index]
                if process.exitcode == 0:
                    continue
                strikes, seen = (strikes + 1 if ended() == seen else 1), ended()
                if strikes >= STRIKES:
                    raise StockenhError(
                        f"a worker ended {_how(process)} again and again: {pool.last_word(index)}"
                    )
                if remain():
                    pool.start(index)


class _Pool:
    def __init__(self, worker: Worker, size: int) -> None:
        self.worker = worker
        self.size = size
        self.running: dict[int, BaseProcess] = {}

    def start(self, index: int) -> None:
        repo = ConfigStore.instance().repo
        with _share_of_cores(self.size):
            process = _SPAWN.Process(target=_child, args=(self.worker, index, repo, str(self._log(index))))
            process.start()
        self.running[index] = process

    def __enter__(self) -> None:
        for index in range(self.size):
            self.start(index)

    def __exit__(self, kind: Any, *_: object) -> None:
        """Lets no worker outlive this; asks first."""
        if kind is None or not self.running:
            return
        self._signal(signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt):
            until = time.monotonic() + PATIENCE_SECONDS
            while any(p.is_alive() for p in self.running.values()) and time.monotonic() < until:
                time.sleep(0.1)
        self._signal(signal.SIGKILL)
        for process in self.running.values():
            process.join()

    def last_word(self, index: int) -> str:
        """The last line that a worker printed."""
        try:
            lines = self._log(index).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"{lines[-1]} (more in {self._log(index)})" if lines else "it said nothing"

    def _signal(self, signum: int) -> None:
        for process in self.running.values():
            if process.is_alive() and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signum)

    def _log(self, index: int) -> Path:
        return self.worker.workers / f"{index}.log"


def _child(worker: Worker, index: int, repo: dict[str, Any], printed: str) -> None:
    """A worker's process; a terminal's Ctrl-C reaches it only through the process that looks after it."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open(printed, "a", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    version.setbase(compose.VERSION_BASE)
    ConfigStore.instance().repo = repo
    try:
        worker.work(index)
    except KeyboardInterrupt:
        sys.exit(130)
    except StockenhError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


@contextmanager
def _share_of_cores(workers: int) -> Iterator[None]:
    """Within, a process that starts takes an equal share of the cores for its threads."""
    key = "OMP_NUM_THREADS"
    before = os.environ.get(key)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if before is None and workers > 1:
        os.environ[key] = str(max(1, cores // workers))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(key, None)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _how(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return f"with exit code {code}" if code > 0 else f"by {signal.Signals(-code).name}"


BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def launch(
    worker: Worker,
    size: int,
    arguments: Sequence[str],
    ended: Callable[[], int],
    remain: Callable[[], bool],
) -> None:
    """Runs `size` workers until nothing remains, or nothing more comes to its end.

    arguments: the overrides of every worker's own job; ended: how many jobs have ended; remain: whether jobs
    wait that a new worker could take. Raises StockenhError where workers fail again and again.
    """
    if not remain():
        return
    if worker.config.hydra.launcher._target_ == BASIC_LAUNCHER:
        run_pool(worker, size, ended, remain)
        return
    _by_launcher(worker, size, arguments, ended, remain)


def _by_launcher(
    worker: Worker,
    size: int,
    arguments: Sequence[str],
    ended: Callable[[], int],
    remain: Callable[[], bool],
) -> None:
    """A launcher that lost some workers is asked again while jobs end."""
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=worker.context, task_function=worker, config=worker.config
    )
    begun = 0
    while True:
        before = ended()
        jobs = [[*arguments, f"hydra.sweep.subdir={WORKERS}/{begun + i}"] for i in range(size)]
        try:
            for job in launcher.launch(jobs, initial_job_idx=begun):
                _ = job.return_value
        except (StockenhError, KeyboardInterrupt):
            raise
        except Exception as error:
            if not remain() or ended() == before:
                said = str(error).strip().splitlines()
                raise StockenhError(
                    f"the launcher's workers failed: {said[0] if said else type(error).__name__}"
                ) from error
        begun += len(jobs)
        if not remain() or ended() == before:
            return
