"""What recipes cost: training and forecasting in turn, peak memory each in a process of its own.

Inputs are random numbers of the data's widths: neither time nor memory depends on what they are.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stockenh.commands.ablate.plan import Row
from stockenh.commands.train.session import settled
from stockenh.config import build
from stockenh.config.schema import RunConfig
from stockenh.data.batches import Group, Micro
from stockenh.data.fitted import Fitted
from stockenh.models.cpu.memory import threads
from stockenh.models.spec import InputSpec
from stockenh.training.optimizers import AUTO
from stockenh.training.step import Learner

STEPS = 1000  # of the schedule that a measured learner is given
WINDOWS = 256  # forecast at once
WAIT_SECONDS = 600  # for a process that measures memory

Seconds = dict[str, list[float]]


def measure(
    configs: Mapping[str, RunConfig],
    trained: Sequence[str],
    rows: Sequence[Row],
    spec: InputSpec,
    on: torch.device,
    rounds: int,
) -> dict[str, Any]:
    """What every recipe in `trained` costs to train, and every row to forecast; the first of each is plain.

    configs: by the name of a recipe. On a CPU one thread's processor time, which neighbours disturb little.
    """
    micros = math.lcm(*(configs[name].train.accumulate for name in trained))
    with threads(1):
        steps = {name: partial(ready(configs[name], spec, on), micros) for name in trained}
        training = _in_turn(steps, rounds, on)
        passes = {row.name: _forecasting(configs[row.recipe], row, spec, on) for row in rows}
        forecasting = _in_turn(passes, rounds, on)
    return {
        "device": on.type,
        "rounds": rounds,
        "train_windows_per_second": {
            name: micros * configs[name].train.batch_size / statistics.median(seconds)
            for name, seconds in training.items()
        },
        "train_speed": _ratios(training),
        "forecast_ms": {name: 1000 * statistics.median(s) for name, s in forecasting.items()},
        "inference_speed": _ratios(forecasting),
        "weights_bytes": {row.name: _bytes(configs[row.recipe], spec) for row in rows},
        "memory": peak_memory({name: configs[name] for name in trained}, spec, on),
    }


def ready(config: RunConfig, spec: InputSpec, on: torch.device) -> Callable[[int], None]:
    """A recipe's training step on random windows: a function that makes steps over so many micro batches."""
    config = _with_rate(config)
    torch.manual_seed(config.seed)
    net = config.model.build(spec).to(on)
    config = settled(config, net, on)
    no_statistics = Fitted(
        [""] * spec.context, [0.0] * spec.context, [1.0] * spec.context,
        [1.0] * spec.horizons, [0.5] * spec.horizons,
    )  # fmt: skip
    learner = build.learner(config, net.train(), no_statistics, on, STEPS)
    micro = _micro(config.train.batch_size, spec, on)

    def steps(micros: int) -> None:
        for _ in range(-(-micros // config.train.accumulate)):
            _step(learner, micro, config.train.accumulate)

    return steps


def peak_memory(configs: Mapping[str, RunConfig], spec: InputSpec, on: torch.device) -> dict[str, int | None]:
    """Bytes that training steps need at their peak, weights and optimizer included; None where nobody counts.

    On a CPU what a fresh process has more at its peak than before the model was made: see memory.py.
    """
    names = list(configs)
    # what CUDA has begun in a process, a fork of it can't go on with
    together = [names] if on.type == "cpu" else [[name] for name in names]
    found: dict[str, int | None] = dict.fromkeys(names)
    for several in together:
        raws = {name: configs[name].raw for name in several}
        done = subprocess.run(
            [sys.executable, "-m", "stockenh.commands.ablate.memory"],
            input=json.dumps({"raws": raws, "spec": asdict(spec), "device": str(on)}),
            capture_output=True, text=True, timeout=WAIT_SECONDS * len(several), check=False,
        )  # fmt: skip
        with contextlib.suppress(ValueError, IndexError):
            found |= json.loads(done.stdout.splitlines()[-1])
    return found


def _forecasting(config: RunConfig, row: Row, spec: InputSpec, on: torch.device) -> Callable[[], object]:
    net = config.model.build(spec).to(on).eval()
    together = 1 + (config.tta.views if row.views else 0)
    inputs = _micro(WINDOWS, spec, on).inputs

    @torch.inference_mode()
    def call() -> None:
        for _ in range(together):
            net(*inputs)

    return call


def _in_turn(calls: Mapping[str, Callable[[], object]], rounds: int, on: torch.device) -> Seconds:
    """Seconds of each call, all of them taken once in every round, after one round to warm up."""
    taken: Seconds = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            seconds = _timed(call, on)
            if turn:
                taken[name].append(seconds)
    return taken


def _timed(call: Callable[[], object], on: torch.device) -> float:
    if on.type == "cuda":
        torch.cuda.synchronize(on)
        began = time.perf_counter()
        call()
        torch.cuda.synchronize(on)
        return time.perf_counter() - began
    began = time.process_time()
    call()
    return time.process_time() - began


def _ratios(taken: Seconds) -> Seconds:
    """How many times as fast as the first, round by round."""
    first = next(iter(taken.values()))
    return {name: [a / max(b, 1e-9) for a, b in zip(first, own, strict=True)] for name, own in taken.items()}


def _with_rate(config: RunConfig) -> RunConfig:
    """A rate that is still to be found changes no time."""
    if config.optimizer.lr != AUTO:
        return config
    return replace(config, optimizer=replace(config.optimizer, lr=config.finder.start_lr))


def _micro(batch: int, spec: InputSpec, on: torch.device) -> Micro:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(on)

    labels = random(batch, spec.horizons) - 0.5
    return Micro(
        x_price=random(batch, spec.lookback, spec.price),
        x_kron=random(batch, spec.embedding),
        x_ctx=random(batch, spec.context),
        y_ret=labels,
        y_up=(labels > 0).float(),
        labelled=torch.ones_like(labels),
    )


def _step(learner: Learner, micro: Micro, accumulate: int) -> None:
    micros = (micro,) * accumulate
    learner.step(Group(micros, micro.labelled.sum() * accumulate, len(micro.y_ret) * accumulate))


def _bytes(config: RunConfig, spec: InputSpec) -> int:
    with torch.device("meta"):
        net: nn.Module = config.model.build(spec)
    return sum(p.numel() * p.element_size() for p in net.state_dict().values())
