"""A small run on bars that a test makes itself: three symbols, two hundred bars, a few thousand weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import RunConfig, parse, plain
from stockenh.data.batches import ReadyWindows, TrainBatches
from stockenh.data.fitted import Fitted
from stockenh.training import checkpoint
from stockenh.training.step import Learner

CPU = torch.device("cpu")
SMALL = (
    "data=files",
    "data.lookback=40",
    "embedding.width=16",
    "model.d_model=16",
    "model.heads=2",
    "model.layers=1",
    "model.ffn=16",
    "model.head_hidden=8",
    "train.batch_size=32",
    "train.epochs=3",
)


def write_bars(folder: Path, symbols: int = 3, bars: int = 200) -> Path:
    """A random walk per symbol, as a CSV each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(symbols):
        rng = np.random.default_rng(number)
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
        opening = close * np.exp(rng.normal(0, 0.005, bars))
        high = np.maximum(opening, close) * 1.01
        low = np.minimum(opening, close) * 0.99
        volume = rng.integers(1000, 9000, bars)
        day = np.busday_offset("2015-01-05", np.arange(bars))
        rows = [
            f"{d},{o},{h},{lo},{c},{v}"
            for d, o, h, lo, c, v in zip(day, opening, high, low, close, volume, strict=True)
        ]
        (folder / f"S{number}.csv").write_text("\n".join(["Date,Open,High,Low,Close,Volume", *rows]) + "\n")
    return folder


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(tmp_path_factory.mktemp("bars"))


@dataclass(frozen=True)
class Small:
    """A learner and its batches, fresh from a config."""

    config: RunConfig
    prepared: build.Prepared
    fitted: Fitted
    resident: ReadyWindows
    batches: TrainBatches
    learner: Learner

    def weights(self) -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in self.learner.model.state_dict().items()}


def assemble(*overrides: str) -> Small:
    config = parse(plain(compose(list(overrides))))
    on = torch.device("cuda") if config.device == "cuda" else CPU
    prepared = build.data(config, on)
    fitted = Fitted.fit(prepared.windows, prepared.rows["train"])
    placement = build.placement(config, prepared, on)
    resident = placement.place(prepared.windows, prepared.embedding, fitted, on)
    batches = build.batches(config, prepared, resident)
    net = build.model(config, prepared, on).train()
    learner = build.learner(config, net, fitted, on, batches.steps)
    return Small(config, prepared, fitted, resident, batches, learner)


@pytest.fixture
def small(bars: Path) -> Callable[..., Small]:
    def make(*overrides: str) -> Small:
        return assemble(*SMALL, f"data.path={bars}", *overrides)

    return make


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def train_steps(made: Small, first: int, last: int) -> None:
    """The steps from `first` to before `last` of the first epoch."""
    for step in range(first, last):
        made.learner.step(made.batches.group(0, step))


def resumed_from_file(made: Small, path: Path, make: Callable[[], Small]) -> Small:
    """A new learner with the state of `made`, weights and random numbers, by way of a file."""
    checkpoint.save(path, {"learner": made.learner.checkpoint(), "rng": checkpoint.rng_state()})
    fresh, content = make(), checkpoint.load(path)
    fresh.batches.seed = made.batches.seed
    fresh.learner.restore(content["learner"])
    checkpoint.set_rng_state(content["rng"])
    return fresh
