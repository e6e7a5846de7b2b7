"""Workers of a multirun: each takes jobs from a shared source, and runs them as Hydra would."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from stockenh.commands.multirun import stops
from stockenh.config import plugins
from stockenh.errors import StockenhError
from stockenh.storage.files import WorkerLock, full_disk
from stockenh.training.stop import PREEMPTION

# The part of the data that a job of a search is judged on: the test part stays unseen.
JUDGED = ("val",)

GRAPHS = "torch._inductor.cudagraph_trees"

log = logging.getLogger(__name__)


class Assignment(Protocol):
    """One job of many, given to this process."""

    number: int
    overrides: list[str]  # what makes this job differ from the others
    stopped: bool  # given back because a person stopped the command: the worker takes no other

    def report(self, epoch: int, metrics: dict[str, Any]) -> bool:
        """An epoch is complete; True ends the job. Raises Interrupted where it is to be resumed later."""

    def complete(self, summary: dict[str, Any], validation: dict[str, Any]) -> None:
        """The job has run to its end; validation: {"loss": ..., "h3": {...}} of the weights it keeps."""

    def fail(self, why: str) -> None:
        """The job has ended in an error, which does not concern the others."""

    def stops(self) -> bool:
        """Whether the job is to save its state and be given back: the stop file is there, or time is over."""

    def give_back(self) -> None:
        """The job was stopped and has saved its state."""


_CURRENT: ContextVar[Assignment | None] = ContextVar("assignment", default=None)


def current() -> Assignment | None:
    """The assignment of the current job; Hydra calls a job with nothing but its config."""
    return _CURRENT.get()


class Source(Protocol):
    """Where jobs come from; sent to the worker's process before it is opened."""

    def open(self, worker: str) -> None:
        """Called once, in the worker's process, with the worker's name."""

    def take(self) -> Assignment | None:
        """The next job, now this worker's own; None where none is left."""


def _this_process() -> tuple[int, float]:
    return os.getpid(), psutil.Process().create_time()


@dataclass
class Worker:
    """What runs jobs. It is a task function itself, so that any Hydra launcher can run it.

    config:    the composed config of the multirun, with Hydra's node
    arguments: the overrides that all jobs share
    workers:   the folder of the workers' locks and output
    parent:    process id and start time of the command: on one machine, workers die with it
    handed:    the plugins of the command
    """

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    source: Source
    arguments: Sequence[str]
    workers: Path
    parent: tuple[int, float] = field(default_factory=_this_process)
    handed: list[plugins.Handed] = field(default_factory=plugins.handed)
    stopped: bool = False  # by a person, before all jobs were done
    preempted: bool = False
    done: int = 0  # jobs that ended here, or that were saved

    @property
    def folder(self) -> Path:
        """Of the multirun."""
        return self.workers.parent

    def __getstate__(self) -> dict[str, Any]:
        """As it was before it began to work: a launcher that requeues a job pickles it again."""
        return {**self.__dict__, "stopped": False, "preempted": False, "done": 0}

    def __call__(self, cfg: DictConfig) -> int:
        """As the job of a launcher; returns how many jobs ended here or were saved.

        A stop is no error: the command sees it in the folder. After a preemption the launcher's own handler
        has the last word, which requeues this job and ends its process.
        """
        requeue = signal.getsignal(PREEMPTION) if PREEMPTION is not None else None
        with suppress(KeyboardInterrupt):
            self.work(int(HydraConfig.get().job.num))
        if self.preempted and PREEMPTION is not None and callable(requeue):
            try:
                requeue(PREEMPTION, None)
            except Exception as error:  # by submitit, of a job that may not be requeued
                log.info("not requeued: %s", error)
        return self.done

    def work(self, index: int) -> None:
        """Runs jobs until none is left or a stop is requested; index: of this worker among the others."""
        setup_globals()
        plugins.take(self.handed)
        _die_with(*self.parent)
        with self._heeding_preemption(), WorkerLock(self.workers) as lock:
            self.source.open(lock.id)
            while not self.stopped and not stops.is_requested(self.folder):
                if (assignment := self.source.take()) is None:
                    break
                self._run(assignment, index)
                self.done += 1
                self.stopped = assignment.stopped

    @contextmanager
    def _heeding_preemption(self) -> Iterator[None]:
        """Between trainings a preemption interrupts the worker at once; within, the state is saved first."""

        def note(signum: int, frame: FrameType | None) -> None:
            self.preempted = True
            raise KeyboardInterrupt

        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # which alone can catch signals
            numbers = {PREEMPTION: note, signal.SIGTERM: signal.default_int_handler}
            before = {n: signal.signal(n, handler) for n, handler in numbers.items() if n is not None}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, assignment: Assignment, index: int = 0) -> None:
        """Runs a job. Raises DiskError where the disk is full, once the job has been given back."""
        ended, full = False, None

        def task(cfg: DictConfig) -> Any:
            nonlocal ended, full
            try:
                with _own_gpu(str(cfg.get("device", "cpu")), index):
                    self.task(cfg)
            except Exception as error:
                full = full_disk(error)
                if full is not None:  # raised below: Hydra would keep it to itself
                    return
                if not isinstance(error, StockenhError):
                    log.exception("unexpected failure")
                assignment.fail(describe(error))
            ended = True

        token = _CURRENT.set(assignment)
        try:
            overrides = [*self.arguments, *assignment.overrides]
            config = self.context.config_loader.load_sweep_config(self.config, overrides)
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = assignment.number
            run_job(
                hydra_context=self.context,
                task_function=task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            if full is not None:
                raise full
        except Exception as error:  # before the task: no valid config, or a folder that can't be made
            if (full := full_disk(error)) is not None:
                # all other jobs would fail too, and this one can be resumed once there is room
                with suppress(OSError, StockenhError):
                    assignment.give_back()
                raise full from None
            if not ended:
                assignment.fail(describe(error).partition("\n")[0])
        except BaseException:
            if assignment.stopped:  # saved already, and then preempted
                self.done += 1
            elif not ended:  # after a second Ctrl-C the job will be resumed from its last checkpoint
                assignment.give_back()
            raise
        finally:
            _CURRENT.reset(token)


def describe(error: Exception) -> str:
    """An error as a job's reason to fail: its class too where the message alone says little."""
    if isinstance(error, StockenhError):
        return str(error)
    return plugins.blame(error) or f"{type(error).__name__}: {error}"


def _die_with(pid: int, created: float) -> None:
    """Ends this process and its children as soon as the command is dead, where both run on one machine."""
    try:
        parent = psutil.Process(pid)
        if pid == os.getpid() or parent.create_time() != created:
            return
    except psutil.Error:  # a worker on another machine
        return

    def watch() -> None:
        parent.wait()
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _own_gpu(device: str, index: int) -> Iterator[None]:
    """A GPU of its own for each worker of a machine: with device=cuda or auto a job's `cuda` is that one.

    What compiled steps and CUDA graphs keep is freed after the job. Other jobs leave CUDA alone, which takes
    memory of a GPU as soon as it is used.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        yield
        return
    if device in ("auto", "cuda"):
        torch.cuda.set_device(index % torch.cuda.device_count())
    try:
        yield
    finally:
        if GRAPHS in sys.modules:  # else nothing was compiled, and importing it takes seconds
            torch.compiler.reset()
        torch.cuda.empty_cache()
