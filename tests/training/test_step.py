"""A step with deferred finite checks, as a compiled program, and split over several processes."""

import contextlib
from dataclasses import replace

import pytest
import torch
from conftest import CPU, fit, same
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.data.batches import DeviceWindows, TrainBatches
from stockenh.errors import ConfigError, TrainingError
from stockenh.inference.predict import predict
from stockenh.storage.machine import lacks_compiler
from stockenh.training.distributed import RankBatches
from stockenh.training.loop import Journal
from stockenh.training.precision import DEFERRED_STEPS, NonFiniteGradient, Precision
from stockenh.training.world import Rank

OFF, MANY = (), ("averaging=ema", "augment=noise", "loss=focal", "loss.alpha=auto")
# What makes the host wait for a device: a number read back, a result of a size that its values decide, or a
# copy of Python's own numbers.
WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.lift_fresh.default,
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
    made.steps(0, 1)  # what is made once may wait
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


@pytest.fixture
def requested(monkeypatch):
    """What torch is requested to do; a backend that generates no C++ takes a fraction of the time."""
    calls, compile_ = [], nn.Module.compile

    def traced(self, **options):
        calls.append(options)
        compile_(self, backend="aot_eager", dynamic=options["dynamic"])

    monkeypatch.setattr(nn.Module, "compile", traced)
    return calls


def test_compiled_steps_are_the_eager_ones_and_forecasts_and_kept_weights_are_eager(small, requested):
    overrides = ("model.dropout=0", "averaging=ema", "train.accumulate=2", "train.batch_size=16")
    eager, compiled = small(*overrides), small(*overrides, "train.compile=true")
    assert requested == [{"dynamic": False, "mode": "default"}]
    assert list(compiled.weights()) == list(eager.weights())
    averaged = compiled.learner.averages.named(compiled.learner.model)["ema"]
    assert same(averaged.state_dict(), compiled.weights())

    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    eager.steps(0, 3)
    compiled.steps(0, 3)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > before
    for name, weights in eager.weights().items():
        torch.testing.assert_close(compiled.weights()[name], weights, rtol=1e-4, atol=1e-6)

    eager.learner.model.load_state_dict(compiled.weights())
    rows = compiled.prepared.rows["val"]
    one, other = (predict(made.learner.model, made.resident, rows, made.fitted) for made in (eager, compiled))
    assert (one.ret == other.ret).all() and (one.up_logits == other.up_logits).all()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # nothing compiled for them


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: its graphs")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # the compiler's advice in fp32
def test_on_a_gpu_steps_are_cuda_graphs_and_learn_the_same(small):
    found = []
    for compiled in ("false", "true"):
        made = small("device=cuda", "model.dropout=0", "train.accumulate=2", f"train.compile={compiled}")
        made.steps(0, 3)
        found.append(made.weights())
    for name, weights in found[0].items():
        torch.testing.assert_close(found[1][name], weights, rtol=1e-3, atol=1e-5)


def test_without_a_compiler_it_is_refused_before_anything_else(monkeypatch):
    config = parse(plain(compose(["train.compile=true"])))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"train.compile=true: no compiler \(g\+\+ or clang\+\+\) is found"):
        build.require_compiler(config, CPU)
    build.require_compiler(parse(plain(compose([]))), CPU)
    assert lacks_compiler(torch.device("cuda")) == "no compiler (gcc or clang)"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    build.require_compiler(config, CPU)


def shares(made, size, batches=None):
    y_ret = made.prepared.windows.y_ret
    return [RankBatches(batches or made.batches, y_ret, Rank(rank, rank, size)) for rank in range(size)]


def gradient(made, groups):
    """The loss and the gradient that these groups add up to."""
    made.learner.optimizer.zero_grad()
    loss = torch.zeros(())
    for group in groups:
        for part in made.learner.losses(group):
            part.backward()
            loss += part.detach()
    found = [p.grad.flatten() for p in made.learner.model.parameters() if p.grad is not None]
    return float(loss), torch.cat(found)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_gradients_of_all_shares_are_that_of_the_whole_group(small, accumulate, size):
    made = small("model.dropout=0", f"train.accumulate={accumulate}", "model.learned_task_weights=true")
    made.prepared.windows.y_ret[made.prepared.rows["train"][::5]] = 0.0
    ready = DeviceWindows(made.prepared.windows, made.prepared.embedding, made.fitted, CPU)
    made = replace(made, batches=build.batches(made.config, made.prepared, ready))
    for step in (0, made.batches.steps - 1):
        whole = made.batches.group(0, step)
        parts = [batches.group(0, step) for batches in shares(made, size)]
        assert all(part.count == whole.count and part.windows == whole.windows for part in parts)
        expected, found = gradient(made, [whole]), gradient(made, parts)
        assert found[0] == pytest.approx(expected[0], rel=1e-6)
        assert torch.allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


def test_a_process_without_a_row_adds_nothing(small):
    made = small("model.dropout=0")
    rows = made.batches.rows[: 2 * made.batches.group_size + 1].numpy()
    batches = TrainBatches(
        made.resident, rows, batch_size=32, accumulate=1, seed=1, augment=made.batches.augment
    )
    assert len(batches.rows_of(0, 2)) == 1  # the last group has a single row
    parts = [share.group(0, 2) for share in shares(made, 3, batches)]
    assert [float(part.micros[0].labelled.sum()) > 0 for part in parts] == [True, False, False]
    loss, empty = gradient(made, parts[1:])
    assert loss == 0 and not empty.any()
    whole = [batches.group(0, 2)]
    assert torch.allclose(gradient(made, parts)[1], gradient(made, whole)[1], rtol=1e-5, atol=1e-7)


def test_four_processes_pass_once_over_what_one_accumulates(small):
    made = small("train.accumulate=4", "train.batch_size=16")
    assert len(made.batches.group(0, 0).micros) == 4
    assert [len(batches.group(0, 0).micros) for batches in shares(made, 4)] == [1, 1, 1, 1]


def draws(batches, first):
    """The noisy prices of step 2 and a random number of its forward pass, starting at step `first`."""
    with contextlib.closing(batches.groups(1, first)) as groups:
        group = next(group for step, group in enumerate(groups, first) if step == 2)
        return group.micros[0].x_price, torch.rand(1)


def test_a_rank_draws_by_the_place_in_the_run_wherever_it_was_resumed(small):
    made = small("augment=noise")
    y_ret, found = made.prepared.windows.y_ret, []
    for rank in (1, 2):
        batches = RankBatches(made.batches, y_ret, Rank(rank, rank, 3))
        one, other = draws(batches, 0), draws(batches, 2)
        assert all(map(torch.equal, one, other))
        found.append(one[1])
    assert found[0] != found[1]


def test_rank_0_goes_on_from_its_random_state(small):
    made = small()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    assert draws(RankBatches(made.batches, made.prepared.windows.y_ret, Rank(0, 0, 3)), 2)[1] == expected
