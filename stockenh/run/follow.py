"""What every process but the first does in a run of several: make its share of each step, and say nothing."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from stockenh import build
from stockenh.config import parse
from stockenh.data.fitted import Fitted
from stockenh.data.shares import Share, SharedBatches
from stockenh.errors import StockenhError
from stockenh.run.together import own_device
from stockenh.training.averaging import Averages
from stockenh.training.learner import Learner
from stockenh.training.memory import keep_freed_memory
from stockenh.training.precision import NonFiniteGradient
from stockenh.training.processes import Order, Team


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
    ready = build.holding(config, prepared, on).hold(prepared.windows, prepared.embedding, fitted, on)
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
