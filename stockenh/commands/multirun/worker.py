"""A worker: takes one job after another from a source that many share, and runs each as Hydra would.

It is a task function itself, so that any Hydra launcher can run it, in this process or far away.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from stockenh.commands.multirun.job import Assignment, working_on
from stockenh.errors import StockenhError
from stockenh.storage.files import WorkerLock, is_locked

WATCH_SECONDS = 0.5

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where jobs come from; sent to the worker's process before it is opened."""

    def open(self, worker: str) -> None:
        """Called once, in the worker's process, with the worker's name."""

    def take(self) -> Assignment | None:
        """The next job, now this worker's own; None where none is left."""


@dataclass
class Worker:
    """What runs jobs.

    config:    the composed config of the whole, with Hydra's node
    arguments: the overrides that all jobs share
    workers:   the folder of the workers' locks and of what they print
    boss:      the lock file of the process that began all this: on one machine, workers die with it
    """

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    source: Source
    arguments: Sequence[str]
    workers: Path
    boss: str

    def __call__(self, cfg: DictConfig) -> int:
        """As the job of a launcher; returns how many jobs were done."""
        return self.work(int(HydraConfig.get().job.num))

    def work(self, index: int) -> int:
        """Runs jobs until none is left; index: of this worker among the others."""
        setup_globals()
        _die_with(self.workers / self.boss)
        _take_gpu(index)
        lock, done = WorkerLock(self.workers), 0
        try:
            self.source.open(lock.id)
            stopped = False
            while not stopped and (assignment := self.source.take()) is not None:
                self._run(assignment)
                stopped = assignment.stopped
                done += not stopped
        finally:
            lock.release()
        return done

    def _run(self, assignment: Assignment) -> None:
        config = self.context.config_loader.load_sweep_config(
            self.config, [*self.arguments, *assignment.overrides]
        )
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = assignment.number
        ended = False

        def task(cfg: DictConfig) -> Any:
            nonlocal ended
            try:
                self.task(cfg)
            except StockenhError as error:
                assignment.fail(str(error))
            except Exception as error:
                log.exception("unexpected failure")
                assignment.fail(f"{type(error).__name__}: {error}")
            ended = True

        try:
            with working_on(assignment):
                run_job(
                    hydra_context=self.context,
                    task_function=task,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
        except BaseException:
            if (
                not ended and not assignment.stopped
            ):  # a second Ctrl-C: what was saved last is where the job will be taken up
                assignment.give_back()
            raise


def _die_with(boss: Path) -> None:
    """Ends this process as soon as the holder of the lock file is dead, where this machine sees it alive."""
    if not is_locked(boss):
        return

    def watch() -> None:
        while is_locked(boss):
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _take_gpu(index: int) -> None:
    """A card of its own for each worker of a machine: `cuda` then means that card."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())
