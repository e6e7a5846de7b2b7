"""Losses: by hand, their neutral settings to the last bit, accumulation groups, and the student's loss."""

import math

import pytest
import torch
from conftest import same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stockenh.config.schema import settings_of
from stockenh.data.batches import Counts, Micro, TeacherOutput
from stockenh.errors import ConfigError
from stockenh.training.losses import Distilled, bernoulli_kl, focal, pinball, smooth
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.step import Objective

LEVELS = torch.tensor([0.1, 0.5, 0.9])


def micro(y_ret, labelled=None, taught=None):
    there = torch.ones_like(y_ret) if labelled is None else labelled
    empty = torch.zeros(len(y_ret), 0)
    return Micro(empty, empty, empty, y_ret * there, 0.5 + 0.5 * (y_ret * there).sign(), there, taught)


def output(ret, logits):
    return {"ret": ret, "up_logits": logits, "up_prob": torch.sigmoid(logits)}


def test_without_missing_labels_it_is_the_mean_that_torch_gives_to_the_last_bit():
    torch.manual_seed(0)
    ret, logits, y = torch.randn(7, 3), torch.randn(7, 3), torch.randn(7, 3)
    plain = 0.6 * F.huber_loss(ret, y) + 0.4 * F.binary_cross_entropy_with_logits(logits, (y > 0).float())
    ours = Objective(HuberBCE())(output(ret, logits), micro(y), Counts.of([micro(y)]))
    assert torch.equal(ours, plain)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**31))
def test_micro_batches_add_up_to_the_big_batch(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(sum(sizes), 3, generator=generator)  # noqa: E731
    ret, logits, y = draw(), draw(), draw() * (torch.rand(sum(sizes), 3, generator=generator) > 0.2)
    there = (torch.rand(sum(sizes), 3, generator=generator) > 0.3).float()
    there[0, 0] = 1
    count, objective = Counts.of([micro(y, there)]), Objective(HuberBCE())
    big = objective(output(ret, logits), micro(y, there), count)
    parts = [
        objective(output(r, lo), micro(t, h), count)
        for r, lo, t, h in zip(*(x.split(sizes) for x in (ret, logits, y, there)), strict=True)
    ]
    assert float(torch.stack(parts).sum()) == pytest.approx(float(big), rel=1e-5)


def test_a_missing_label_moves_nothing():
    ret, logits = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    there = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    target = micro(torch.ones(2, 3), there)
    Objective(HuberBCE())(output(ret, logits), target, Counts.of([target])).backward()
    assert torch.equal(ret.grad != 0, there == 1) and torch.equal(logits.grad != 0, there == 1)


@pytest.mark.parametrize("loss", [
    HuberBCE(), HuberBCE(smoothing=0.1), HuberBCE(gamma=2.0, alpha="auto").fitted([0.6] * 3),
    Distilled(HuberBCE(), 2.0, 0.5),
])  # fmt: skip
def test_a_return_of_exactly_0_teaches_the_return_and_no_direction(loss):
    ret, logits = torch.full((2, 3), 0.3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    taught = TeacherOutput(torch.ones(2, 3), torch.ones(2, 3))
    target = micro(torch.tensor([[0.5, 0.0, -0.5], [0.0, 0.2, 0.0]]), taught=taught)
    count = Counts.of([target])
    assert (int(count.labels), int(count.moves)) == (6, 3)
    found = Objective(loss)(output(ret, logits), target, count)
    found.backward()
    assert (ret.grad != 0).all() and torch.equal(logits.grad != 0, target.y_ret != 0)
    # the mean over the three that moved, not over six
    of_returns, of_direction = loss.elements(output(ret, logits), target)
    expected = 0.6 * of_returns.mean() + 0.4 * of_direction[target.y_ret != 0].mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_a_group_of_ties_alone_has_a_loss_of_returns_alone():
    target = micro(torch.zeros(2, 3))
    found = Objective(HuberBCE())(output(torch.ones(2, 3), torch.ones(2, 3)), target, Counts.of([target]))
    assert float(found) == pytest.approx(0.6 * 0.5)


def test_learned_task_weights_start_as_the_plain_sum_and_follow_kendall():
    torch.manual_seed(1)
    ret, logits, target = torch.randn(4, 3), torch.randn(4, 3), micro(torch.randn(4, 3))
    count, objective = Counts.of([target]), Objective(HuberBCE())
    plain = objective(output(ret, logits), target, count)
    log_var = torch.zeros(2, requires_grad=True)
    weighted = objective({**output(ret, logits), "task_log_var": log_var}, target, count)
    assert float(weighted.detach()) == pytest.approx(float(plain), rel=1e-6)
    weighted.backward()
    huber = 0.6 * F.huber_loss(ret, target.y_ret)
    # d/ds (exp(-s) L + s / 2) at s = 0
    assert float(log_var.grad[0]) == pytest.approx(0.5 - float(huber), rel=1e-5)


def test_smoothing_and_focal_by_hand():
    assert smooth(torch.tensor([0.0, 1.0]), 0.1).tolist() == pytest.approx([0.05, 0.95])
    logits = torch.tensor([[math.log(3.0), math.log(3.0)]])  # p = 0.75
    found = focal(logits, torch.tensor([[1.0, 0.0]]), 2.0, torch.tensor([0.25, 0.25]))
    up = 0.25 * (1 - 0.75) ** 2 * -math.log(0.75)
    down = 0.75 * (1 - 0.25) ** 2 * -math.log(0.25)
    assert found.tolist()[0] == pytest.approx([up, down], rel=1e-5)
    # smoothed: p = 0.5, p_t = 0.5 * 0.9 + 0.5 * 0.1 = 0.5
    found = focal(torch.tensor([[0.0]]), torch.tensor([[0.9]]), 1.0)
    assert float(found) == pytest.approx(0.5 * math.log(2), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.floats(-80, 80), st.booleans(), st.floats(0, 5), st.floats(0, 0.5))
def test_it_is_finite_and_so_is_its_gradient(logit, up, gamma, smoothing):
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = focal(logits, smooth(torch.tensor([[float(up)]]), smoothing), gamma)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(loss).all() and (loss >= 0).all() and torch.isfinite(gradient).all()


def test_alpha_auto_is_one_less_the_share_of_up_of_the_train_part_alone(small):
    loss = HuberBCE(gamma=2.0, alpha="auto").fitted([0.5, 0.6, 0.7])
    assert loss.alphas == pytest.approx([0.5, 0.4, 0.3])
    assert HuberBCE(alpha=0.25).fitted([0.5, 0.6, 0.7]).alphas == (0.25, 0.25, 0.25)
    assert HuberBCE().fitted([0.5, 0.6]) == HuberBCE()
    made = small("loss=focal", "loss.alpha=auto")
    returns = made.prepared.windows.y_ret[made.prepared.rows["train"]]
    shares = [(r[r != 0] > 0).mean() for r in returns.T]
    assert made.learner.objective.loss.alphas == pytest.approx([1 - s for s in shares])


@pytest.mark.parametrize("choice", ["loss=label_smoothing", "loss=focal"])
def test_chosen_it_trains_other_weights_and_turned_off_the_plain_ones(small, choice):
    def trained(*overrides):
        made = small(*overrides)
        torch.manual_seed(0)
        made.steps(0, 4)
        return made.weights()

    plain = trained()
    assert not same(plain, trained(choice))
    assert same(plain, trained(choice, "loss.smoothing=0", "loss.gamma=0"))


def test_pinball_by_hand():
    quantiles = torch.tensor([[[-1.0, 0.0, 2.0]], [[0.0, 3.0, 4.0]]])
    y = torch.tensor([[1.0], [-2.0]])
    # above a forecast of level q it costs q a unit, below it 1 - q
    expected = [[(0.1 * 2 + 0.5 * 1 + 0.1 * 1) / 3], [(0.9 * 2 + 0.5 * 5 + 0.1 * 6) / 3]]
    torch.testing.assert_close(pinball(quantiles, y, LEVELS), torch.tensor(expected))


def test_auto_takes_quantiles_where_there_are_some_and_huber_else():
    torch.manual_seed(0)
    quantiles, ret, y = torch.randn(4, 2, 3), torch.randn(4, 2), torch.randn(4, 2)
    huber, plain = F.huber_loss(ret, y, reduction="none"), output(ret, torch.zeros_like(ret))
    with_quantiles = {**plain, "quantiles": quantiles, "quantile_levels": LEVELS}
    expected = pinball(quantiles, y, LEVELS)
    for name, of_returns in (("auto", expected), ("pinball", expected), ("huber", huber)):
        assert torch.equal(HuberBCE(returns=name).elements(with_quantiles, micro(y))[0], of_returns)
    assert torch.equal(HuberBCE(returns="auto").elements(plain, micro(y))[0], huber)


def test_pinball_without_quantiles_ends_a_run_with_a_line_that_names_loss_and_model(
    stockenh, small_run, tmp_path
):
    done = stockenh("train", *small_run, "loss.returns=pinball", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 2 and "Traceback" not in done.err
    assert "loss.returns=pinball needs quantiles" in done.err
    assert "model=tft_xl or loss.returns=auto" in done.err


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    ret, up, y, taught_ret, taught_up = (torch.randn(5, 3, generator=generator) for _ in range(5))
    return output(ret, up), micro(y, taught=TeacherOutput(taught_ret, taught_up))


def test_weight_0_is_the_loss_of_the_labels_to_the_last_bit(drawn):
    hard = HuberBCE(smoothing=0.1, gamma=2.0)
    student = Distilled(hard, temperature=3.0, weight=0.0)
    for one, other in zip(student.elements(*drawn), hard.elements(*drawn), strict=True):
        assert torch.equal(one, other)
    assert (student.return_weight, student.direction_weight) == (0.6, 0.4)


def test_the_student_s_loss_by_hand():
    temperature, weight = 2.0, 0.7
    q, p = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(1.0))  # of the logits 1 and -2, halved
    kl = temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    answer = output(torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    teacher = TeacherOutput(torch.tensor([[-0.3]]), torch.tensor([[-2.0]]))
    student = Distilled(HuberBCE(), temperature, weight)
    returns, direction = student.elements(answer, micro(torch.tensor([[0.2]]), taught=teacher))
    assert float(returns) == pytest.approx(0.3 * 0.5 * 0.3**2 + 0.7 * 0.5 * 0.8**2, rel=1e-6)
    assert float(direction) == pytest.approx(0.3 * -math.log(1 / (1 + math.exp(-1.0))) + 0.7 * kl, rel=1e-6)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(0.5, 10))
def test_the_divergence_is_0_only_where_both_agree(student, teacher, temperature):
    made = float(bernoulli_kl(torch.tensor(student), torch.tensor(teacher), temperature))
    assert made >= -1e-5
    assert float(bernoulli_kl(torch.tensor(teacher), torch.tensor(teacher), temperature)) == 0


@pytest.mark.parametrize("temperature", [20.0, 200.0])
def test_the_square_of_the_temperature_keeps_the_gradient_s_size(temperature):
    # far above the logits, T^2 KL has the gradient (student - teacher) / 4, whatever T is; by horizon
    student = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    bernoulli_kl(student, torch.tensor([[-1.0, 0.0, 0.0]]), temperature).sum().backward()
    assert student.grad.tolist()[0] == [pytest.approx(2 / 4, rel=1e-2), 0, 0]


def test_windows_that_no_teacher_answered_are_an_error(drawn):
    answer, window = drawn
    with pytest.raises(ValueError, match="teacher's answers"):
        Distilled(HuberBCE(), 2.0, 0.5).elements(answer, micro(window.y_ret))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"return_weight": 0.0, "direction_weight": 0.0}, "loss.return_weight and loss.direction_weight"),
        ({"returns": "mse"}, "loss.returns=mse: no such returns. Options: auto, huber, pinball"),
        *(
            ({key: value}, f"loss.{key}={value}")
            for key, value in {"return_weight": -1.0, "delta": 0.0, "smoothing": 1.0, "gamma": -1.0}.items()
        ),
        *(({"alpha": value}, f"loss.alpha={value}") for value in (1.5, "balanced")),
    ],
)
def test_wrong_settings_are_named(values, names):
    with pytest.raises(ConfigError, match=names):
        settings_of("loss", HuberBCE, values)
