"""Label smoothing and focal loss: 0 and 0 equal cross-entropy to the bit, by hand, and through the config."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import Small, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stockenh.errors import ConfigError
from stockenh.training import checkpoint
from stockenh.training.losses.base import focal, smooth
from stockenh.training.losses.huber_bce import HuberBCE

Make = Callable[..., Small]


def test_zero_and_zero_are_the_cross_entropy_to_the_last_bit() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 3, requires_grad=True), (torch.rand(50, 3) > 0.5).float()
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    ours = focal(logits, smooth(targets, 0.0), 0.0)
    assert torch.equal(ours, plain)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, plain)]
    assert torch.equal(*gradients)


def test_smoothing_by_hand() -> None:
    assert smooth(torch.tensor([0.0, 1.0]), 0.1).tolist() == pytest.approx([0.05, 0.95])


def test_focal_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), math.log(3.0)]])  # p = 0.75
    found = focal(logits, torch.tensor([[1.0, 0.0]]), 2.0, torch.tensor([0.25, 0.25]))
    up = 0.25 * (1 - 0.75) ** 2 * -math.log(0.75)
    down = 0.75 * (1 - 0.25) ** 2 * -math.log(0.25)
    assert found.tolist()[0] == pytest.approx([up, down], rel=1e-5)


def test_focal_with_smoothed_targets_by_hand() -> None:
    found = focal(torch.tensor([[0.0]]), torch.tensor([[0.9]]), 1.0)
    # p = 0.5, p_t = 0.5 * 0.9 + 0.5 * 0.1 = 0.5
    assert float(found) == pytest.approx(0.5 * math.log(2), rel=1e-6)


@settings(max_examples=60)
@given(st.floats(-80, 80), st.booleans(), st.floats(0, 5), st.floats(0, 0.5))
def test_it_is_finite_and_so_is_its_gradient(logit: float, up: bool, gamma: float, smoothing: float) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = focal(logits, smooth(torch.tensor([[float(up)]]), smoothing), gamma)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(loss).all() and (loss >= 0).all() and torch.isfinite(gradient).all()


def test_alpha_auto_is_one_less_the_train_share_of_up_per_horizon() -> None:
    loss = HuberBCE(gamma=2.0, alpha="auto").fitted([0.5, 0.6, 0.7])
    assert loss.alphas == pytest.approx([0.5, 0.4, 0.3])
    assert HuberBCE(alpha=0.25).fitted([0.5, 0.6, 0.7]).alphas == [0.25] * 3
    assert HuberBCE().fitted([0.5, 0.6]) == HuberBCE()


def test_alpha_auto_comes_from_the_train_part_alone(small: Make) -> None:
    made = small("loss=focal", "loss.alpha=auto")
    returns = made.prepared.windows.y_ret[made.prepared.rows["train"]]
    shares = [(r[r != 0] > 0).mean() for r in returns.T]
    assert made.learner.objective.loss.alphas == pytest.approx([1 - s for s in shares])


@pytest.mark.parametrize("choice", ["loss=label_smoothing", "loss=focal"])
def test_chosen_it_trains_other_weights_and_turned_off_the_plain_ones(small: Make, choice: str) -> None:
    def trained(*overrides: str) -> dict[str, torch.Tensor]:
        made = small(*overrides)
        torch.manual_seed(0)
        for step in range(4):
            made.learner.step(made.batches.group(0, step))
        return made.weights()

    plain = trained()
    assert not same(plain, trained(choice))
    assert same(plain, trained(choice, "loss.smoothing=0", "loss.gamma=0"))


@pytest.mark.parametrize("choice", ["loss=label_smoothing", "loss=focal"])
def test_it_goes_on_from_a_file_with_the_same_bits(small: Make, choice: str, tmp_path: object) -> None:
    whole, again = small(choice, "loss.alpha=auto"), small(choice, "loss.alpha=auto")
    for step in range(2):
        whole.learner.step(whole.batches.group(0, step))
    path = tmp_path / "c.pt"  # type: ignore[operator]
    checkpoint.save(path, {"learner": whole.learner.checkpoint(), "rng": checkpoint.rng_state()})
    whole.learner.step(whole.batches.group(0, 2))
    content = checkpoint.load(path)
    again.learner.restore(content["learner"])
    checkpoint.set_rng_state(content["rng"])
    again.learner.step(again.batches.group(0, 2))
    assert same(whole.weights(), again.weights())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"smoothing": 1.0}, "loss.smoothing=1.0"),
        ({"gamma": -1.0}, "loss.gamma=-1.0"),
        ({"alpha": 1.5}, "loss.alpha=1.5"),
        ({"alpha": "balanced"}, "loss.alpha=balanced"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        HuberBCE(**values)  # type: ignore[arg-type]
