"""Deferred finite checks: a step reads nothing back, and one that is not finite is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Small, same
from torch.utils._python_dispatch import TorchDispatchMode

from stockenh.data.batches import Group
from stockenh.errors import TrainingError
from stockenh.report.terminal import SilentProgress
from stockenh.training.loop import Journal, Limits, State, StopRequest, fit
from stockenh.training.precision import DEFERRED_STEPS, NonFiniteGradient, Precision

CPU = torch.device("cpu")
Make = Callable[..., Small]

# What makes the host wait for a device: a number read back, or a result of a size that its values decide.
WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
)


class Waits(TorchDispatchMode):
    """Counts the operators that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))


def deferred(made: Small, precision: str = "fp32") -> Small:
    """The same with a learner that doesn't wait, as on CUDA."""
    return replace(made, learner=replace(made.learner, precision=Precision(precision, CPU, deferred=True)))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.precision=bf16", "train.accumulate=2", "train.batch_size=16"),
        ("averaging=ema", "augment=noise", "loss=focal", "loss.alpha=auto"),
    ],
)
def test_a_step_reads_nothing_back(small: Make, overrides: tuple[str, ...]) -> None:
    made = deferred(small(*overrides), "bf16" if overrides[:1] == ("train.precision=bf16",) else "fp32")
    with Waits() as waits:
        for _ in range(3):
            made.learner.step(made.batches.group(0, 0))
    assert waits.count == 0
    with Waits() as waits:
        made.learner.precision.require_finite(now=True)
    assert waits.count == 1  # so the counter counts


def test_it_makes_the_same_steps_to_the_last_bit(small: Make) -> None:
    waiting, going = small(), small()
    going = deferred(going)
    for made in (waiting, going):
        torch.manual_seed(0)
        for step in range(4):
            made.learner.step(made.batches.group(0, step))
    assert same(waiting.weights(), going.weights())


def poisoned(group: Group) -> Group:
    micro = group.micros[0]
    return replace(group, micros=(replace(micro, x_ctx=micro.x_ctx * torch.nan), *group.micros[1:]))


def test_a_step_that_is_not_finite_is_left_out_and_raised_later(small: Make) -> None:
    made = deferred(small())
    made.learner.step(made.batches.group(0, 0))
    before = made.weights()
    made.learner.step(poisoned(made.batches.group(0, 1)))
    assert same(made.weights(), before)
    made.learner.step(made.batches.group(0, 2))
    made.learner.step(made.batches.group(0, 3))
    assert all(bool(torch.isfinite(v).all()) for v in made.weights().values())
    made.learner.precision.require_finite()  # too early to wait for the device
    with pytest.raises(NonFiniteGradient) as refused:
        made.learner.precision.require_finite(now=True)
    assert refused.value.ago == 2
    made.learner.precision.require_finite(now=True)  # raised once


def test_the_device_is_read_after_so_many_steps(small: Make) -> None:
    made = deferred(small("train.epochs=20"))
    made.learner.step(poisoned(made.batches.group(0, 0)))
    for _ in range(DEFERRED_STEPS - 2):
        made.learner.step(made.batches.group(0, 1))
        made.learner.precision.require_finite()
    made.learner.step(made.batches.group(0, 1))
    with pytest.raises(NonFiniteGradient) as refused:
        made.learner.precision.require_finite()
    assert refused.value.ago == DEFERRED_STEPS - 1


class NotSaved(Journal):
    def pause(self, state: State) -> None:
        raise AssertionError("saved")


def test_the_loop_names_the_step_and_saves_nothing_after_it(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = deferred(small("train.batch_size=16"))
    assert made.batches.steps > 5
    groups = made.batches.groups

    def with_a_bad_third(epoch: int, first: int) -> Any:
        for number, group in enumerate(groups(epoch, first)):
            yield poisoned(group) if number == 2 else group

    monkeypatch.setattr(made.batches, "groups", with_a_bad_third)
    limits, progress = Limits(1, 1, checkpoint_seconds=1e9), SilentProgress()
    with pytest.raises(TrainingError, match="epoch 1, step 3: the gradient norm is not finite"):
        fit(made.learner, made.batches, dict, State(), limits, NotSaved(), progress, StopRequest())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: it tells of every wait")
@pytest.mark.parametrize(
    "overrides", [(), ("averaging=ema", "augment=noise", "loss=focal", "loss.alpha=auto")]
)
def test_on_a_gpu_nothing_of_a_step_waits(small: Make, overrides: tuple[str, ...]) -> None:
    made = small("device=cuda", "train.precision=bf16", *overrides)
    made.learner.step(made.batches.group(0, 0))  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, _ = made.learner.step(made.batches.group(0, 1))
        with pytest.raises(RuntimeError, match="synchroniz"):
            float(loss)  # which does wait, so the GPU reports it
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_check_in_between_does_not_move_the_regular_one(small: Make) -> None:
    """Else processes that check at different times would end at different steps."""
    made = deferred(small("train.epochs=20"))
    for step in range(1, DEFERRED_STEPS + 1):
        group = made.batches.group(0, 1)
        made.learner.step(poisoned(group) if step == 30 else group)
        if step == 20:
            made.learner.precision.require_finite(now=True)
        if step < DEFERRED_STEPS:
            made.learner.precision.require_finite()
    with pytest.raises(NonFiniteGradient) as refused:
        made.learner.precision.require_finite()
    assert refused.value.ago == DEFERRED_STEPS - 30
