"""What a step must cost at least, and the project's loop as the benchmark takes it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stockenh.commands.bench.setup import ProjectLoop, Setup
from stockenh.commands.bench.training import Peaks, floor, loop_overhead
from stockenh.commands.measure import Clock
from stockenh.config.compose import compose
from stockenh.config.schema import plain

CPU = torch.device("cpu")
TINY = ["model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16", "model.head_hidden=8"]


class TwoHeads(nn.Module):
    """Two products of 10 by 3."""

    def __init__(self) -> None:
        super().__init__()
        self.ret, self.up = nn.Linear(10, 3, bias=False), nn.Linear(10, 3, bias=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"ret": self.ret(x), "up_logits": self.up(x)}


def test_the_floor_counts_the_products_of_both_passes_or_the_bytes_of_the_weights() -> None:
    setup = SimpleNamespace(net=TwoHeads, inputs=lambda n: (torch.ones(n, 10),), batch_size=4)
    products = 2 * 2 * (2 * 10 * 3)  # two heads, forward and weights' gradients, a window
    of_arithmetic = floor(setup, Peaks({"fp32": 1.0}, bandwidth=1e12), "fp32")
    assert of_arithmetic == products
    of_memory = floor(setup, Peaks({"fp32": 1e12}, bandwidth=1.0), "fp32")
    assert of_memory == 11 * 4 * 60 / 4  # so many passes over 60 weights of 4 bytes, by 4 windows


@pytest.fixture(scope="module")
def setup() -> Setup:
    raw = plain(compose([*TINY, "embedding=none"]))
    return Setup.make(raw, raw["model"], CPU)


def test_the_project_s_loop_learns_and_never_has_a_short_group(setup: Setup) -> None:
    step = ProjectLoop(setup.with_train(batch_size=32, accumulate=2))
    assert step.windows == 64
    sizes = {step.batches.group(0, n).windows for n in range(step.batches.steps)}
    assert sizes == {64}
    before = [p.clone() for p in step.learner.model.parameters()]
    for _ in range(step.batches.steps + 1):  # into a second epoch
        step()
    moved = [not torch.equal(a, b) for a, b in zip(before, step.learner.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_auto_is_settled_once_and_a_step_is_one_batch(setup: Setup) -> None:
    train = setup.with_train(precision="auto", accumulate=4).with_fixed_precision().config.train
    assert (train.precision, train.accumulate) == ("fp32", 1)  # a small model


def test_the_overhead_is_a_share(setup: Setup) -> None:
    (figure,) = loop_overhead("tiny", setup, Clock(CPU, 0.1))
    assert figure.value is not None and 0 < figure.value < 100
    assert str(figure.aim) == "at most 5"
