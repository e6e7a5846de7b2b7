"""Mixed precision and gradient accumulation: off equals a plain loop, on equals hand numbers, both resume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Small, resumed_from_file, same, train_steps
from torch import nn
from torch.nn import functional as F

from stockenh.data.batches import Group, Micro
from stockenh.training import checkpoint
from stockenh.training.averaging import Averages
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.optimizers import Constant, OneCycle, Schedule
from stockenh.training.precision import (
    MOST_SKIPS_IN_A_ROW,
    NonFiniteGradient,
    Precision,
    resolve,
)
from stockenh.training.step import Learner, Objective

CPU = torch.device("cpu")
Make = Callable[..., Small]


def plain_loop(small: Small, dtype: torch.dtype | None = None, steps: int = 6) -> dict[str, torch.Tensor]:
    """The base recipe as a notebook writes it, on the same model and the same batches."""
    torch.manual_seed(small.config.seed)
    model = small.config.model.build(small.prepared.spec).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
    total = small.config.train.epochs * small.batches.steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=total, div_factor=10, final_div_factor=100
    )
    for step in range(steps):
        rows = small.batches.rows_of(0, step)
        batch = small.resident.gather(rows, small.config.augment)
        optimizer.zero_grad()
        autocast = torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext()
        with autocast:
            out = model(*batch.inputs)
        # with reduction="mean" torch's kernels multiply by a rounded 1 / n where .mean() divides by n
        huber = F.huber_loss(out["ret"].float(), batch.y_ret, reduction="none")
        direction = F.binary_cross_entropy_with_logits(out["up_logits"].float(), batch.y_up, reduction="none")
        (0.6 * huber.mean() + 0.4 * direction.mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.state_dict()


def full_labels(small: Small) -> bool:
    return all(bool(small.batches.group(0, step).count % 3 == 0) for step in range(6))


def test_with_every_technique_off_the_step_equals_the_plain_loop_to_the_last_bit(small: Make) -> None:
    made = small()
    assert full_labels(made)
    torch.manual_seed(made.config.seed)
    made.config.model.build(made.prepared.spec)  # the random state in which the plain loop begins
    train_steps(made, 0, 6)
    assert same(made.weights(), plain_loop(made))


def test_bf16_equals_a_plain_autocast_loop_to_the_last_bit_and_differs_from_fp32(small: Make) -> None:
    made = small("train.precision=bf16")
    torch.manual_seed(made.config.seed)
    made.config.model.build(made.prepared.spec)
    train_steps(made, 0, 6)
    assert same(made.weights(), plain_loop(made, torch.bfloat16))
    assert not same(made.weights(), plain_loop(made))


class Line(nn.Module):
    """ret = w x with a loss whose gradient is known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0]]))

    def forward(
        self, x_price: torch.Tensor, x_embedding: torch.Tensor, x_ctx: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        ret = x_ctx @ self.w
        return {"ret": ret, "up_logits": 0 * ret, "up_prob": torch.sigmoid(0 * ret)}


def line_learner(precision: str, max_norm: float = 1e9) -> Learner:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = Schedule(optimizer, OneCycle().plan(peak=0.1, steps=100))
    loss = Objective(HuberBCE(return_weight=1.0, direction_weight=0.0, delta=1e9))
    return Learner(model, loss, optimizer, schedule, Precision(precision, CPU), Averages(), max_norm)


def line_group(*micros: list[float]) -> Group:
    made = []
    for values in micros:
        x = torch.tensor(values)[:, None]
        empty = torch.zeros(len(values), 0)
        made.append(Micro(empty, empty, x, torch.zeros_like(x), torch.zeros_like(x), torch.ones_like(x)))
    count = torch.tensor(float(sum(map(len, micros))))
    return Group(tuple(made), count, int(count))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_by_hand_is_unscaled_before_it_is_clipped(precision: str) -> None:
    learner = line_learner(precision, max_norm=1.5)
    rate = learner.schedule.lr
    state = learner.precision.state_dict()
    if precision == "fp16":  # a loss scale that this gradient does not overflow
        state["scaler"]["scale"] = 1024.0
    learner.precision.load_state_dict(state)
    # loss = mean of (w x)^2 / 2 over x = 1, 2: the gradient is (1 + 4) / 2 = 2.5, clipped to 1.5
    loss, taken = learner.step(line_group([1.0, 2.0]))
    assert taken and float(loss) == pytest.approx(1.25)
    assert float(learner.model.w.detach()) == pytest.approx(1 - rate * 1.5, rel=1e-5)


def test_fp16_skips_an_overflow_and_neither_schedule_nor_weights_move() -> None:
    learner = line_learner("fp16")
    rate, scale = learner.schedule.lr, learner.precision.state_dict()["scaler"]["scale"]
    # the output 30,000 fits fp16, its gradient times a scale of 65,536 does not
    _, taken = learner.step(line_group([30000.0]))
    assert not taken
    assert learner.schedule.lr == rate and learner.schedule.taken == 0
    assert torch.equal(learner.model.w, torch.tensor([[1.0]]))
    assert learner.precision.state_dict()["scaler"]["scale"] == scale / 2
    _, taken = learner.step(line_group([0.01]))
    assert taken and learner.schedule.taken == 1


def test_fp16_that_can_only_skip_gives_up() -> None:
    learner = line_learner("fp16")
    overflowing = line_group([60000.0, 60000.0])
    learner.model.w.data.fill_(10.0)  # the forward pass itself overflows, which no loss scale mends
    for _ in range(MOST_SKIPS_IN_A_ROW):
        assert learner.step(overflowing)[1] is False
    with pytest.raises(NonFiniteGradient):
        learner.step(overflowing)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_nan_is_refused_before_the_optimizer(precision: str) -> None:
    learner = line_learner(precision)
    with pytest.raises(NonFiniteGradient):
        learner.step(line_group([float("nan")]))
    assert torch.equal(learner.model.w, torch.tensor([[1.0]]))
    assert learner.schedule.taken == 0


@pytest.mark.parametrize(
    "technique",
    [
        *(
            [f"train.precision={precision}", f"train.accumulate={accumulate}"]
            for precision in ("fp32", "bf16", "fp16")
            for accumulate in (1, 2)
        ),
        ["augment=noise"],
        ["loss=label_smoothing"],
        ["loss=focal", "loss.alpha=auto"],
    ],
    ids=" ".join,
)
def test_resumed_from_a_file_the_steps_go_on_with_the_same_bits(
    small: Make, tmp_path: Path, technique: list[str]
) -> None:
    overrides = (*technique, "train.batch_size=16")
    whole = small(*overrides)
    train_steps(whole, 0, 3)
    resumed = resumed_from_file(
        whole, tmp_path / "c.pt", lambda: small(*overrides, "seed=1")
    )  # other initial weights
    train_steps(whole, 3, 6)
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "c.pt")["rng"])
    train_steps(resumed, 3, 6)
    assert same(whole.weights(), resumed.weights())
    assert whole.learner.schedule.lr == resumed.learner.schedule.lr
    assert whole.learner.precision.state_dict() == resumed.learner.precision.state_dict()


def test_the_fp16_loss_scale_survives() -> None:
    learner = line_learner("fp16")
    learner.step(line_group([30000.0]))
    again = line_learner("fp16")
    again.restore(learner.checkpoint())
    assert again.precision.state_dict()["scaler"]["scale"] == 32768.0
    assert again.precision.state_dict()["skipped_in_a_row"] == 1


def test_auto_is_a_fixed_rule_by_device_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = nn.Linear(4, 4), nn.Linear(1000, 1000)
    monkeypatch.setattr("stockenh.training.precision.has_bf16", lambda device: True)
    assert resolve("auto", CPU, small) == "fp32"
    assert resolve("auto", CPU, large) == "bf16"
    assert resolve("auto", CPU, nn.Linear(499_999, 1, bias=False)) == "fp32"
    assert resolve("auto", CPU, nn.Linear(500_000, 1, bias=False)) == "bf16"
    monkeypatch.setattr("stockenh.training.precision.has_bf16", lambda device: False)
    assert resolve("auto", CPU, large) == "fp32"
    assert resolve("fp16", CPU, small) == "fp16"


def test_accumulation_equals_the_big_batch_to_rounding_without_dropout(small: Make) -> None:
    big = small("model.dropout=0", "train.batch_size=32", "train.accumulate=1")
    split = small("model.dropout=0", "train.batch_size=8", "train.accumulate=4")
    assert big.batches.steps == split.batches.steps
    for made in (big, split):
        # plain gradient descent: Adam divides by the gradient's size and blows rounding up where it is near 0
        descent = torch.optim.SGD(made.learner.model.parameters(), lr=0.05)
        schedule = Schedule(descent, Constant().plan(0.05, 99))
        learner = replace(made.learner, optimizer=descent, schedule=schedule)
        for step in range(made.batches.steps):  # the last group is short and its micro batches uneven
            learner.step(made.batches.group(0, step))
    for name, tensor in big.weights().items():
        torch.testing.assert_close(split.weights()[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_short_last_micro_batch_by_hand() -> None:
    learner = line_learner("fp32")
    rate = learner.schedule.lr
    # windows 1, 2 and 4 in micro batches of two: the gradient is (1 + 4 + 16) / 3, not the mean of two means
    loss, _ = learner.step(line_group([1.0, 2.0], [4.0]))
    assert float(loss) == pytest.approx(3.5)
    assert float(learner.model.w.detach()) == pytest.approx(1 - rate * 7)


def test_the_schedule_counts_optimizer_steps(small: Make) -> None:
    made = small("train.batch_size=8", "train.accumulate=4")
    train_steps(made, 0, made.batches.steps)
    windows = len(made.batches.rows)
    assert made.learner.schedule.taken == made.batches.steps == -(-windows // 32)


def test_a_run_of_constant_rate_keeps_it(small: Make) -> None:
    made = small("schedule=constant", "optimizer.lr=0.002")
    train_steps(made, 0, 3)
    assert isinstance(made.config.schedule, Constant)
    assert made.learner.schedule.lr == 0.002
