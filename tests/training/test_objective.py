"""The plain loss by hand, and the arithmetic of accumulation groups."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stockenh.data.batches import Micro
from stockenh.errors import ConfigError
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.step import Objective


def micro(y_ret: torch.Tensor, labelled: torch.Tensor | None = None) -> Micro:
    there = torch.ones_like(y_ret) if labelled is None else labelled
    empty = torch.zeros(len(y_ret), 0)
    return Micro(empty, empty, empty, y_ret * there, (y_ret * there > 0).float(), there)


def answer(ret: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"ret": ret, "up_logits": logits, "up_prob": torch.sigmoid(logits)}


def test_one_window_by_hand() -> None:
    out = answer(torch.tensor([[0.5, -3.0]]), torch.tensor([[0.0, math.log(3)]]))
    target = micro(torch.tensor([[1.0, 1.0]]))
    # Huber: 0.5 * 0.5^2 = 0.125 and 4 - 0.5 = 3.5; BCE of an up: log 2 and log(4/3)
    expected = 0.6 * (0.125 + 3.5) / 2 + 0.4 * (math.log(2) + math.log(4 / 3)) / 2
    assert float(Objective(HuberBCE())(out, target, torch.tensor(2.0))) == pytest.approx(expected, rel=1e-6)


def test_without_missing_labels_it_is_the_mean_that_torch_gives_to_the_last_bit() -> None:
    torch.manual_seed(0)
    ret, logits, y = torch.randn(7, 3), torch.randn(7, 3), torch.randn(7, 3)
    plain = 0.6 * F.huber_loss(ret, y) + 0.4 * F.binary_cross_entropy_with_logits(logits, (y > 0).float())
    ours = Objective(HuberBCE())(answer(ret, logits), micro(y), torch.tensor(21.0))
    assert torch.equal(ours, plain)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**31))
def test_micro_batches_add_up_to_the_big_batch(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(sum(sizes), 3, generator=generator)  # noqa: E731
    ret, logits, y = draw(), draw(), draw()
    there = (torch.rand(sum(sizes), 3, generator=generator) > 0.3).float()
    there[0, 0] = 1
    count, objective = there.sum(), Objective(HuberBCE())
    big = objective(answer(ret, logits), micro(y, there), count)
    parts = [
        objective(answer(r, lo), micro(t, h), count)
        for r, lo, t, h in zip(*(x.split(sizes) for x in (ret, logits, y, there)), strict=True)
    ]
    assert float(torch.stack(parts).sum()) == pytest.approx(float(big), rel=1e-5)


def test_a_missing_label_moves_nothing() -> None:
    ret, logits = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    there = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    Objective(HuberBCE())(answer(ret, logits), micro(torch.ones(2, 3), there), there.sum()).backward()
    assert ret.grad is not None and logits.grad is not None
    assert ret.grad[0, 1] == 0 and logits.grad[0, 1] == 0
    assert (ret.grad[there == 1] != 0).all()


def test_learned_task_weights_start_as_the_plain_sum_and_follow_kendall() -> None:
    torch.manual_seed(1)
    ret, logits, target = torch.randn(4, 3), torch.randn(4, 3), micro(torch.randn(4, 3))
    count, objective = torch.tensor(12.0), Objective(HuberBCE())
    plain = objective(answer(ret, logits), target, count)
    log_var = torch.zeros(2, requires_grad=True)
    weighted = objective({**answer(ret, logits), "task_log_var": log_var}, target, count)
    assert float(weighted.detach()) == pytest.approx(float(plain), rel=1e-6)
    weighted.backward()
    huber = 0.6 * F.huber_loss(ret, target.y_ret)
    assert log_var.grad is not None
    # d/ds (exp(-s) L + s / 2) at s = 0
    assert float(log_var.grad[0]) == pytest.approx(0.5 - float(huber), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"return_weight": -1.0}, "loss.return_weight=-1.0"),
        ({"return_weight": 0.0, "direction_weight": 0.0}, "loss.return_weight and loss.direction_weight"),
        ({"delta": 0.0}, "loss.delta=0.0"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, float], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        HuberBCE(**values)
