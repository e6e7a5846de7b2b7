"""A run of several processes: the first leads as if it were alone, the others make every step with it.

The leader alone has a run folder, prints, validates, and decides when to stop. The others are told what the
run is, and after that one word per step; what comes next is in the data order that all of them know.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from stockenh.commands.train.session import Session
from stockenh.config import build
from stockenh.config.schema import RunConfig, parse
from stockenh.data.batches import Share, SharedBatches, TrainBatches
from stockenh.data.fitted import Fitted
from stockenh.errors import ConfigError, StockenhError
from stockenh.models.cpu.memory import keep_freed_memory
from stockenh.training.averaging import Averages
from stockenh.training.distributed import Order, Team
from stockenh.training.loop import Interrupted, State
from stockenh.training.precision import NonFiniteGradient
from stockenh.training.step import Learner

# torchrun repeats a terminal's Ctrl-C to every process
GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)

Stepping = tuple[Learner, TrainBatches]


class Processes(Protocol):
    """The processes that train a run, as `train` sees them.

    size: how many; grace: see `stop_on_signal`
    """

    size: int
    grace: float

    def device(self, name: str) -> torch.device:
        """The device that `device=` names in this process. Raises ConfigError."""

    def check(self, config: RunConfig) -> None:
        """Raises ConfigError for what these processes can't train."""

    def training(
        self, session: Session, learner: Learner, batches: TrainBatches, state: State
    ) -> AbstractContextManager[Stepping]:
        """What the loop is given: while it lasts, all processes make its steps. Raises StockenhError."""


class OneProcess:
    """The usual case: nothing is shared."""

    size = 1
    grace = 0.0

    def device(self, name: str) -> torch.device:
        return build.device(name)

    def check(self, config: RunConfig) -> None:
        pass

    @contextmanager
    def training(
        self, session: Session, learner: Learner, batches: TrainBatches, state: State
    ) -> Iterator[Stepping]:
        yield learner, batches


class Leader:
    """The first of several processes.

    lost: whether it broke off in the middle of a step, so that the others can't be told anything more
    """

    grace = GRACE_SECONDS

    def __init__(self, team: Team) -> None:
        self.team = team
        self.size = team.place.size
        self.lost = False

    def device(self, name: str) -> torch.device:
        return own_device(name, self.team)

    def check(self, config: RunConfig) -> None:
        if config.teacher is not None:
            raise ConfigError("a student is taught in one process: go on without torchrun")

    @contextmanager
    def training(
        self, session: Session, learner: Learner, batches: TrainBatches, state: State
    ) -> Iterator[Stepping]:
        team = self.team
        with self._telling_the_end():
            log.info("%d processes make the steps", self.size)
            team.tell(Order.TRAIN)
            team.hand_out(_description(session, learner, state))
            team.first_of_each_machine_first(lambda: None)  # this one has prepared its data already
            if complaints := team.complaints(None):
                raise StockenhError(complaints[0])
            shared = team.together(learner.model, session.device, lambda: team.tell(Order.STEP))
            own = SharedBatches(batches, session.prepared.windows.y_ret, Share(0, self.size))
            yield replace(learner, shared=shared), own

    @contextmanager
    def _telling_the_end(self) -> Iterator[None]:
        """What the program raises itself comes between two steps; anything else may come within one."""
        try:
            yield
        except (StockenhError, Interrupted):
            self.team.tell(Order.OVER)
            raise
        except BaseException:
            self.lost = True
            raise
        self.team.tell(Order.OVER)


def _description(session: Session, learner: Learner, state: State) -> dict[str, Any]:
    """All that another process needs to make the next step, but for the bars and the weights."""
    kept = learner.checkpoint()
    return {
        "config": session.config.raw,
        "fitted": session.fitted.to_dict(),
        "data": session.prepared.windows.digest(),
        "learner": {name: kept[name] for name in ("optimizer", "schedule", "precision")},
        "epoch": state.epoch,
        "step": state.step_in_epoch,
    }


def own_device(name: str, team: Team) -> torch.device:
    """auto and cuda are a card of each process's own. Raises ConfigError where there are too few."""
    if name.startswith("cuda:"):
        raise ConfigError(f"device={name}: each of several processes has a card of its own; take device=cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if torch.cuda.is_available() and name in ("auto", "cuda"):
        cards, number = torch.cuda.device_count(), team.place.local_rank
        if number >= cards:
            raise ConfigError(
                f"{number + 1} processes or more on a machine with {cards} CUDA device(s): take "
                f"--nproc-per-node={cards}, or device=cpu"
            )
        return torch.device("cuda", number)
    return build.device(name)


_current: ContextVar[Processes | None] = ContextVar("_current", default=None)


def current() -> Processes:
    """The processes that this command trains with."""
    return _current.get() or OneProcess()


@contextmanager
def leading(leader: Leader) -> Iterator[None]:
    """Within, runs are trained by all of the leader's processes."""
    token = _current.set(leader)
    try:
        yield
    finally:
        _current.reset(token)


def follow(team: Team) -> int:
    """Takes part in what the leader trains until it says to leave; the exit code that it says."""
    while True:
        order, code = team.hear()
        if order is Order.LEAVE:
            return code
        if order is Order.TRAIN:
            _take_part(team, team.hand_out())


def _take_part(team: Team, run: dict[str, Any]) -> None:
    learner, batches = None, None

    def make() -> str | None:
        nonlocal learner, batches
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                learner, batches = _prepare(team, run)
        except Exception as error:
            what = str(error) if isinstance(error, StockenhError) else f"{type(error).__name__}: {error}"
            return f"process {team.place.rank} of {team.place.size} on {socket.gethostname()}: {what}"
        return None

    if team.complaints(team.first_of_each_machine_first(make)):
        return
    assert learner is not None and batches is not None
    _step(team, learner, batches, run)


def _prepare(team: Team, run: dict[str, Any]) -> tuple[Learner, SharedBatches]:
    config = parse(run["config"])
    on = own_device(config.device, team)
    prepared = build.data(config, on)
    if prepared.windows.digest() != run["data"]:
        raise StockenhError(
            "the bars here are not those of process 0; every machine must read the same files at data.path"
        )
    fitted = Fitted.from_dict(run["fitted"])
    torch.set_num_threads(config.threads or 1)
    keep_freed_memory()
    ready = build.placement(config, prepared, on).place(prepared.windows, prepared.embedding, fitted, on)
    batches = build.batches(config, prepared, ready)
    net = build.model(config, prepared, on).train()
    made = build.learner(config, net, fitted, on, batches.steps)
    # the leader keeps the averages, and its weights come with the first step
    learner = replace(made, averages=Averages())
    learner.restore({**run["learner"], "model": net.state_dict(), "averages": {}})
    share = Share(team.place.rank, team.place.size)
    return learner, SharedBatches(batches, prepared.windows.y_ret, share)


def _step(team: Team, learner: Learner, batches: SharedBatches, run: dict[str, Any]) -> None:
    """Step after step until the leader says that there are no more."""
    device = batches.data.device
    learner = replace(learner, shared=team.together(learner.model, device, lambda: None))
    for epoch, step in _places(run["epoch"], run["step"], batches.steps):
        # dropout and noise of its own at every place of a run, however often it was taken up before
        entropy = (run["config"]["seed"], team.place.rank, epoch, step)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
        group = batches.group(epoch, step)
        order, _ = team.hear()
        if order is not Order.STEP:
            return
        try:
            learner.step(group)
        except NonFiniteGradient:
            return  # the leader sees the same sum of gradients, and says so


def _places(epoch: int, step: int, steps: int) -> Iterator[tuple[int, int]]:
    while True:
        for number in range(step, steps):
            yield epoch, number
        epoch, step = epoch + 1, 0
