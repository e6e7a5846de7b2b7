"""The student's loss: off is the labels' own, on is a number by hand, each horizon a question of its own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stockenh.data.batches import Micro, TeacherOutput
from stockenh.training.losses.distilled import Distilled, bernoulli_kl
from stockenh.training.losses.huber_bce import HuberBCE

logits = st.floats(-30, 30)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def micro(y_ret: Tensor, teacher: TeacherOutput | None) -> Micro:
    nothing = torch.zeros(len(y_ret), 0)
    return Micro(nothing, nothing, nothing, y_ret, (y_ret > 0).float(), torch.ones_like(y_ret), teacher)


def out(ret: Tensor, up_logits: Tensor) -> dict[str, Tensor]:
    return {"ret": ret, "up_logits": up_logits, "up_prob": torch.sigmoid(up_logits)}


@pytest.fixture
def drawn() -> tuple[dict[str, Tensor], Micro]:
    generator = torch.Generator().manual_seed(0)
    ret, up, y, taught_ret, taught_up = (torch.randn(5, 3, generator=generator) for _ in range(5))
    return out(ret, up), micro(y, TeacherOutput(taught_ret, taught_up))


def test_weight_0_is_the_loss_of_the_labels_to_the_last_bit(drawn):
    hard = HuberBCE(smoothing=0.1, gamma=2.0)
    student = Distilled(hard, temperature=3.0, weight=0.0)
    for one, other in zip(student.elements(*drawn), hard.elements(*drawn), strict=True):
        assert torch.equal(one, other)
    assert (student.return_weight, student.direction_weight) == (0.6, 0.4)


def test_by_hand():
    temperature, weight = 2.0, 0.7
    q, p = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(1.0))  # of the logits 1 and -2, halved
    kl = temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    answer = out(torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    given_ = micro(torch.tensor([[0.2]]), TeacherOutput(torch.tensor([[-0.3]]), torch.tensor([[-2.0]])))
    returns, direction = Distilled(HuberBCE(), temperature, weight).elements(answer, given_)
    assert float(returns) == pytest.approx(0.3 * 0.5 * 0.3**2 + 0.7 * 0.5 * 0.8**2, rel=1e-6)
    assert float(direction) == pytest.approx(0.3 * -math.log(sigmoid(1.0)) + 0.7 * kl, rel=1e-6)


@given(logits, logits, st.floats(0.5, 10))
def test_the_divergence_is_0_only_where_both_agree(student, teacher, temperature):
    made = float(bernoulli_kl(torch.tensor(student), torch.tensor(teacher), temperature))
    assert made >= -1e-5
    assert float(bernoulli_kl(torch.tensor(teacher), torch.tensor(teacher), temperature)) == 0


def test_the_square_of_the_temperature_keeps_the_gradient_s_size():
    # far above the logits, T^2 KL has the gradient (student - teacher) / 4, whatever T is
    for temperature in (20.0, 200.0):
        student = torch.tensor([1.0], requires_grad=True)
        bernoulli_kl(student, torch.tensor([-1.0]), temperature).sum().backward()
        assert float(student.grad) == pytest.approx(2 / 4, rel=1e-2)


def test_a_horizon_does_not_depend_on_the_others():
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[3.0, 0.0, 0.0]])
    bernoulli_kl(student, teacher, 2.0).sum().backward()
    assert student.grad is not None
    assert student.grad[0, 0] < 0 and (student.grad[0, 1:] == 0).all()


def test_windows_that_no_teacher_answered_are_an_error(drawn):
    answer, asked = drawn
    with pytest.raises(ValueError, match="teacher's answers"):
        Distilled(HuberBCE(), 2.0, 0.5).elements(answer, micro(asked.y_ret, None))
