"""Deferred finite checks: a step reads nothing back, and one that is not finite is left out."""

from dataclasses import replace

import pytest
import torch
from conftest import CPU, fit, same
from torch.utils._python_dispatch import TorchDispatchMode

from stockenh.errors import TrainingError
from stockenh.training.loop import Journal
from stockenh.training.precision import DEFERRED_STEPS, NonFiniteGradient, Precision

OFF, MANY = (), ("averaging=ema", "augment=noise", "loss=focal", "loss.alpha=auto")
# What makes the host wait for a device: a number read back, or a result of a size that its values decide.
WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
)


class Waits(TorchDispatchMode):
    """Counts the operators that would make the host wait."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))


@pytest.fixture
def deferred(small):
    """A small run whose learner doesn't wait, as on CUDA."""

    def make(*overrides, precision="fp32"):
        made = small(*overrides, f"train.precision={precision}")
        return replace(
            made, learner=replace(made.learner, precision=Precision(precision, CPU, deferred=True))
        )

    return make


def poisoned(group):
    micro = group.micros[0]
    return replace(group, micros=(replace(micro, x_ctx=micro.x_ctx * torch.nan), *group.micros[1:]))


@pytest.mark.parametrize(
    ("precision", "overrides"),
    [("fp32", OFF), ("bf16", ("train.accumulate=2", "train.batch_size=16")), ("fp32", MANY)],
)
def test_a_step_reads_nothing_back(deferred, precision, overrides):
    made = deferred(*overrides, precision=precision)
    with Waits() as waits:
        for _ in range(3):
            made.steps(0, 1)
    assert waits.count == 0
    with Waits() as waits:
        made.learner.precision.require_finite(now=True)
    assert waits.count == 1  # so the counter counts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: it reports every wait")
@pytest.mark.parametrize("overrides", [OFF, MANY])
def test_on_a_gpu_nothing_of_a_step_waits(small, overrides):
    made = small("device=cuda", "train.precision=bf16", *overrides)
    made.steps(0, 1)  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, _ = made.learner.step(made.batches.group(0, 1))
        with pytest.raises(RuntimeError, match="synchroniz"):
            float(loss)  # which does wait, so the GPU reports it
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_it_makes_the_same_steps_to_the_last_bit(small, deferred):
    waiting, going = small("train.precision=fp32"), deferred()
    for made in (waiting, going):
        torch.manual_seed(0)
        made.steps(0, 4)
    assert same(waiting.weights(), going.weights())


def test_a_step_that_is_not_finite_is_left_out_and_raised_later(deferred):
    made = deferred()
    made.steps(0, 1)
    before = made.weights()
    made.learner.step(poisoned(made.batches.group(0, 1)))
    assert same(made.weights(), before)
    made.steps(2, 4)
    assert all(bool(torch.isfinite(v).all()) for v in made.weights().values())
    made.learner.precision.require_finite()  # too early to wait for the device
    with pytest.raises(NonFiniteGradient) as refused:
        made.learner.precision.require_finite(now=True)
    assert refused.value.ago == 2
    made.learner.precision.require_finite(now=True)  # raised once


@pytest.mark.parametrize(("bad", "checked"), [(1, None), (30, 20)])
def test_the_device_is_read_after_so_many_steps_whatever_was_checked_before(deferred, bad, checked):
    """Else processes that check at different times would end at different steps."""
    made = deferred("train.epochs=20")
    for step in range(1, DEFERRED_STEPS + 1):
        group = made.batches.group(0, 1)
        made.learner.step(poisoned(group) if step == bad else group)
        if step < DEFERRED_STEPS:
            made.learner.precision.require_finite(now=step == checked)
    with pytest.raises(NonFiniteGradient) as refused:
        made.learner.precision.require_finite()
    assert refused.value.ago == DEFERRED_STEPS - bad


def test_the_loop_names_the_step_and_saves_nothing_after_it(deferred, monkeypatch):
    class NotSaved(Journal):
        def pause(self, state):
            raise AssertionError("saved")

    made = deferred("train.batch_size=16")
    assert made.batches.steps > 5
    groups = made.batches.groups

    def with_a_bad_third(epoch, first):
        for number, group in enumerate(groups(epoch, first)):
            yield poisoned(group) if number == 2 else group

    monkeypatch.setattr(made.batches, "groups", with_a_bad_third)
    with pytest.raises(TrainingError, match="epoch 1, step 3: the gradient norm is not finite"):
        fit(made, dict, 1, journal=NotSaved())
