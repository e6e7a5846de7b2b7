"""A run in the processes that torchrun has started: rank 0 is an ordinary `train`, the others join its steps.

Rank 0 alone has a run folder, prints, validates and decides. It broadcasts what the run is; from then on
every process runs the same loop on its own share.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import math
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import torch

from stockenh.commands.train.session import Session
from stockenh.config import build, registry
from stockenh.config.build import Prepared
from stockenh.config.schema import parse, plugins_of
from stockenh.data.batches import TrainBatches
from stockenh.data.fitted import Fitted
from stockenh.errors import StockenhError, TrainingError
from stockenh.models.cpu.memory import keep_freed_memory
from stockenh.report.terminal import SilentProgress
from stockenh.training.averaging import Averages
from stockenh.training.distributed import DistributedStep, ProcessGroup, RankBatches, device_name
from stockenh.training.loop import Journal, State, fit
from stockenh.training.step import Learner
from stockenh.training.stop import StopRequest
from stockenh.training.world import Rank

INTERRUPTED = 130

log = logging.getLogger(__name__)


@contextlib.contextmanager
def process_group(own: Rank) -> Iterator[None]:
    """Within, rank 0 trains; the others join its run on entry and end with SystemExit and its exit code."""
    if not own.is_first:  # rank 0 handles a stop, which the same signal reaches
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    group = ProcessGroup(own)
    if not own.is_first:  # not before: it would wait for a rank 0 that has ended
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if not own.is_first:
            _join(group)
        yield
    except BaseException as error:
        _free(error)
        is_clean = isinstance(error, StockenhError | SystemExit | KeyboardInterrupt)
        # where this process does not end in order, the others notice that the connection closes
        is_halfway = group.is_mid_step = (
            group.is_mid_step or group.is_lost(error) or not (is_clean or own.is_first)
        )
        group.leave(_exit_code(error))
        if is_clean or not is_halfway:
            raise
        if own.is_first:
            raise TrainingError(_describe(own, error)) from None
        if not group.is_lost(error):
            print(f"stockenh: {_describe(own, error)}", file=sys.stderr)
        raise SystemExit(StockenhError.exit_code) from None
    gc.collect()  # as in _free, for what refers to itself
    group.leave(0)


def _free(error: BaseException) -> None:
    """Drops what the frames of an error hold: a process can hang at its end where torch's process group is
    closed before its DistributedDataParallel is gone."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__context__
    gc.collect()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, StockenhError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return StockenhError.exit_code


def share(
    group: ProcessGroup, session: Session, learner: Learner, batches: TrainBatches, state: State
) -> tuple[Learner, TrainBatches]:
    """Sends a run to the other processes; rank 0's own learner and batches for the shared steps.

    Raises StockenhError with what keeps another process from taking part.
    """
    log.info("%d processes train this run", group.own.size)
    stored = learner.checkpoint()
    group.broadcast(
        {
            "config": session.config.raw,
            "plugins": [plugin.to_dict() for plugin in plugins_of(session.config)],
            "device": session.device.type,
            "fitted": session.fitted.to_dict(),
            "data": session.prepared.windows.digest(),
            "learner": {name: stored[name] for name in ("optimizer", "schedule", "precision")},
            "state": state.to_dict(),
        }
    )
    if errors := group.machine_by_machine(lambda: None):  # rank 0 has prepared its data already
        raise StockenhError(errors[0])
    return _shared(group, learner, batches, session.prepared)


def _join(group: ProcessGroup) -> NoReturn:
    """Takes part in the run that rank 0 sends. Raises SystemExit when rank 0 ends."""
    run = group.broadcast()
    prepared: list[tuple[Learner, TrainBatches, Prepared]] = []

    def prepare() -> str | None:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                prepared.append(_prepare(run))
        except Exception as error:
            text = str(error) if isinstance(error, StockenhError) else f"{type(error).__name__}: {error}"
            return f"process {group.own.rank} of {group.own.size} on {socket.gethostname()}: {text}"
        return None

    if not group.machine_by_machine(prepare):
        learner, batches = _shared(group, *prepared[0])
        limits = replace(build.limits(parse(run["config"])), checkpoint_seconds=math.inf)
        state = State.from_dict(run["state"])
        with contextlib.suppress(TrainingError):  # rank 0 raises the same
            fit(learner, batches, dict, state, limits, Journal(), SilentProgress(), StopRequest())
    while True:
        group.sync()


def _prepare(run: dict[str, Any]) -> tuple[Learner, TrainBatches, Prepared]:
    config = parse(run["config"])
    if others := registry.changed(plugins_of(config), run["plugins"]):
        raise StockenhError(f"{others[0]}; every machine must have the file of process 0")
    device = build.device(device_name(run["device"]))
    prepared = build.data(config, device)
    if prepared.windows.digest() != run["data"]:
        raise StockenhError(
            "the bars here are not those of process 0; every machine must read the same files at data.path"
        )
    fitted = Fitted.from_dict(run["fitted"])
    torch.set_num_threads(config.threads or 1)
    keep_freed_memory()
    placement = build.placement(config, prepared, device)
    ready = placement.place(prepared.windows, prepared.embedding, fitted, device)
    batches = build.batches(config, prepared, ready)
    net = build.model(config, prepared, device).train()
    learner = build.learner(config, net, fitted, device, batches.steps)
    # rank 0 keeps the averages, and sends its weights when the steps are set up
    learner = replace(learner, averages=Averages())
    learner.restore({**run["learner"], "model": net.state_dict(), "averages": {}})
    return learner, batches, prepared


def _shared(
    group: ProcessGroup, learner: Learner, batches: TrainBatches, prepared: Prepared
) -> tuple[Learner, TrainBatches]:
    step = DistributedStep(group, learner.model, batches.data.device)
    return replace(learner, processes=step), RankBatches(
        batches, prepared.windows.direction, group.own, prepared.windows.weight
    )


def _describe(own: Rank, error: BaseException) -> str:
    """One line for what ended a step halfway in this process."""
    if ProcessGroup.is_lost(error):
        return (
            "another process of this run is gone or can't be reached; its error stands above. The last "
            "checkpoint is kept: continue with resume=RUN, with any number of processes"
        )
    first = (str(error).splitlines() or [""])[0]
    return f"process {own.rank} of {own.size}: {type(error).__name__}: {first}"
