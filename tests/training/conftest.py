"""Small runs on bars that a test makes itself: three symbols, two hundred bars, a few thousand weights."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bars import write_bars
from torch import nn

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import RunConfig, parse, plain
from stockenh.data.batches import Counts, Group, Micro, ReadyWindows, TrainBatches
from stockenh.data.fitted import Fitted
from stockenh.report.terminal import SilentProgress
from stockenh.training import checkpoint, loop
from stockenh.training.averaging import Averages
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.optimizers import OneCycle, Schedule
from stockenh.training.precision import Precision
from stockenh.training.step import Learner, Objective

CPU = torch.device("cpu")
SMALL = (
    "data=files", "data.lookback=40", "embedding.width=16", "model.d_model=16", "model.heads=2",
    "model.layers=1", "model.ffn=16", "model.head_hidden=8", "train.batch_size=32", "train.epochs=3",
)  # fmt: skip
TFT = (
    "data=files", "data.lookback=20", "embedding.width=16", "model=tft_xl", "model.d_model=16",
    "model.heads=2", "train.batch_size=16", "train.epochs=3", "device=cpu",
)  # fmt: skip


def write_folder(folder: Path, bars: int = 200) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        write_bars(folder / f"S{number}.csv", seed=number, bars=bars)
    return folder


@pytest.fixture(scope="session")
def bars(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("bars"))


@dataclass(frozen=True)
class Small:
    """A learner and its batches, fresh from a config."""

    config: RunConfig
    prepared: build.Prepared
    fitted: Fitted
    resident: ReadyWindows
    batches: TrainBatches
    learner: Learner

    def weights(self):
        return {k: v.clone() for k, v in self.learner.model.state_dict().items()}

    def all_weights(self):
        """Raw weights and every average, by name."""
        named = self.learner.averages.named(self.learner.model)
        return {f"{name}.{k}": v.clone() for name, net in named.items() for k, v in net.state_dict().items()}

    def steps(self, first, last, epoch=0):
        """Takes the steps from `first` to before `last` of an epoch."""
        for step in range(first, last):
            self.learner.step(self.batches.group(epoch, step))

    def close_epoch(self, epoch):
        self.learner.averages.close_epoch(self.learner.model, epoch, self.batches.inputs)


def assemble(*overrides: str) -> Small:
    config = parse(plain(compose(list(overrides))))
    device = torch.device("cuda") if config.device == "cuda" else CPU
    prepared = build.data(config, device)
    fitted = Fitted.fit(prepared.windows, prepared.rows["train"])
    placement = build.placement(config, prepared, device)
    resident = placement.place(prepared.windows, prepared.embedding, fitted, device)
    batches = build.batches(config, prepared, resident)
    net = build.model(config, prepared, device).train()
    learner = build.learner(config, net, fitted, device, batches.steps)
    return Small(config, prepared, fitted, resident, batches, learner)


@pytest.fixture
def small(bars):
    return lambda *overrides, base=SMALL: assemble(*base, f"data.path={bars}", *overrides)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def resumed_from_file(made: Small, path: Path, make: Callable[[], Small]) -> Small:
    """A new learner with the state of `made`, weights and random numbers, by way of a file."""
    checkpoint.save(path, {"learner": made.learner.checkpoint(), "rng": checkpoint.rng_state(CPU)})
    fresh, content = make(), checkpoint.load(path)
    fresh.batches.seed = made.batches.seed
    fresh.learner.restore(content["learner"])
    checkpoint.set_rng_state(content["rng"], CPU)
    return fresh


def assert_resumes(made: Small, path: Path, make: Callable[[], Small], go_on: Callable[[Small], Any]) -> None:
    """What follows gives the same bits in `made` and in a new learner that continues from its checkpoint."""
    fresh = resumed_from_file(made, path, make)
    for learner in (made, fresh):
        checkpoint.set_rng_state(checkpoint.load(path)["rng"], CPU)
        go_on(learner)
    assert same(made.all_weights(), fresh.all_weights())
    assert made.learner.schedule.lr == fresh.learner.schedule.lr
    assert made.learner.precision.state_dict() == fresh.learner.precision.state_dict()


class After(SilentProgress):
    """Calls something once so many steps were made."""

    def __init__(self, steps, then):
        self.left, self.then = steps, then

    def advance(self, windows, loss):
        self.left -= 1
        if self.left == 0:
            self.then()


def fit(
    made,
    validate,
    epochs,
    state=None,
    *,
    patience=2,
    patience_from=0,
    seconds=1e9,
    journal=None,
    stop=None,
    **options,
):
    """Runs the loop; with stop=N a stop is requested after N steps."""
    state, request = state or loop.State(), loop.StopRequest()
    progress = options.pop("progress", SilentProgress())
    if stop is not None:
        progress = After(stop, lambda: setattr(request, "requested", True))
    limits, journal = loop.Limits(epochs, patience, seconds, patience_from), journal or loop.Journal()
    loop.fit(made.learner, made.batches, validate, state, limits, journal, progress, request, **options)
    return state


class Hostile:
    """Unpickled, it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Line(nn.Module):
    """ret = w x, so the loss on y = 0 is (w x)^2 / 2: on x = 1 a rate of 1 is the best of plain descent."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0]]))
        self.dropout = nn.Dropout(0.0)

    def forward(self, x_price, x_embedding, x_ctx):
        ret = self.dropout(x_ctx @ self.w)
        return {"ret": ret, "up_logits": 0 * ret, "up_prob": torch.sigmoid(0 * ret)}


def line_learner(precision: str = "fp32", averages: Averages | None = None, max_norm: float = 1e9) -> Learner:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = Schedule(optimizer, OneCycle().plan(peak=0.1, steps=100))
    loss = Objective(HuberBCE(return_weight=1.0, direction_weight=0.0, delta=1e9))
    return Learner(
        model, loss, optimizer, schedule, Precision(precision, CPU), averages or Averages(), max_norm
    )


def line_group(*micros: list[float]) -> Group:
    """A group of micro batches of these x, with y = 0."""
    made = []
    for values in micros:
        x = torch.tensor(values)[:, None]
        zero = torch.zeros_like(x)
        made.append(Micro(zero, zero, x, zero, zero, torch.ones_like(x)))
    return Group(tuple(made), Counts.of(made), sum(map(len, micros)))
