"""What a GPU or MPS needs, shown on a machine without one: stand-ins take the place of torch's functions."""

import gc
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CPU, TFT, assemble, same
from torch import Tensor, nn

from stockenh.commands import measure
from stockenh.commands.bench.training import Peaks, floor
from stockenh.commands.measure import Clock
from stockenh.commands.multirun import worker
from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.data.placement import HostToDevice
from stockenh.embedding import compute, kernel
from stockenh.embedding.compute import filled
from stockenh.embedding.kernel import KernelEmbedding
from stockenh.errors import ConfigError
from stockenh.models import tft
from stockenh.models.layers import copied, in_other_forms
from stockenh.storage import machine
from stockenh.training import checkpoint, distributed
from stockenh.training.averaging import Ema, Swa
from stockenh.training.distributed import DistributedStep, RankBatches, device_name
from stockenh.training.lr_finder import range_test, unchanged
from stockenh.training.precision import Precision, resolve, sum_dtype
from stockenh.training.step import Gradients, KeptGradients
from stockenh.training.world import Rank

SECOND = torch.device("cuda:1")
MPS = torch.device("mps")


# gradients of a CUDA graph


class Replayed(torch.autograd.Function):
    """x w, whose gradient of w is always written to the same memory, as a CUDA graph's is."""

    memory = torch.zeros(2)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x)
        return (x * w).sum()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        Replayed.memory.copy_(grad * x)
        return None, torch.empty(0).set_(Replayed.memory)


class TwoWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))


def accumulated(gradients: Gradients, model: TwoWeights, steps: int) -> list[list[float]]:
    """The gradients of steps of two micro batches, 1 2 and 10 20."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(steps):
        gradients.clear(optimizer)
        for x in ([1.0, 2.0], [10.0, 20.0]):
            Replayed.apply(torch.tensor(x), model.w).backward()
            gradients.keep(model)
        found.append(model.w.grad.tolist())
    return found


def test_gradients_of_a_graph_add_up_though_every_replay_overwrites_the_last():
    assert accumulated(Gradients(), TwoWeights(), 1) != [[11.0, 22.0]]  # what would happen otherwise
    model = TwoWeights()
    assert accumulated(KeptGradients(), model, 3) == [[11.0, 22.0]] * 3
    assert model.unused.grad is None  # so that no optimizer decays it


def test_a_gradient_that_was_dropped_in_between_gets_memory_of_its_own_again():
    model, gradients = TwoWeights(), KeptGradients()
    accumulated(gradients, model, 1)
    model.w.grad = None
    assert accumulated(gradients, model, 2) == [[11.0, 22.0]] * 2


@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_with_kept_gradients_are_the_same_to_the_last_bit(small, accumulate):
    found = []
    for gradients in (Gradients(), KeptGradients()):
        made = small("averaging=ema", "train.batch_size=16", f"train.accumulate={accumulate}")
        made = replace(made, learner=replace(made.learner, gradients=gradients))
        torch.manual_seed(0)
        made.steps(0, made.batches.steps)  # the last group is short
        found.append(made.all_weights())
    assert same(*found)


def test_compiled_steps_on_a_gpu_keep_their_gradients(small, monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    made = small("train.compile=true")
    assert type(made.learner.gradients) is Gradients
    monkeypatch.setattr(build, "Precision", lambda name, device: Precision(name, CPU))
    net = build.model(made.config, made.prepared, CPU)
    on_gpu = build.learner(made.config, net, made.fitted, SECOND, 3)
    assert type(on_gpu.gradients) is KeptGradients


def test_a_block_leaves_the_gradients_that_steps_in_it_write_to(small):
    made = small()
    learner = replace(made.learner, gradients=KeptGradients())
    learner.step(made.batches.group(0, 0))
    before = [p.grad.clone() for p in learner.model.parameters()]
    with unchanged(learner):
        learner.step(made.batches.group(0, 1))
    assert all(torch.equal(p.grad, b) for p, b in zip(learner.model.parameters(), before, strict=True))


# copies of an LSTM


def test_each_copy_of_an_lstm_has_its_weights_in_one_block(monkeypatch):
    compacted = []
    monkeypatch.setattr(nn.LSTM, "flatten_parameters", lambda self: compacted.append(id(self)))
    made = assemble(*TFT, "data=synthetic_small", "data.bars=200", "averaging=ema_swa")
    net = made.learner.model
    kept = [average.weights() or average._model.module for average in made.learner.averages.kept.values()]
    copies = [copied(net), in_other_forms(net, {}), *kept, Ema(net, 0.9).weights(), Swa(net, 1)._model]
    for one in copies:
        lstms = [id(module) for module in one.modules() if isinstance(module, nn.LSTM)]
        assert len(lstms) == 2 and set(lstms) <= set(compacted)
    compacted.clear()
    range_test(made.learner, made.batches, start_lr=1e-4, end_lr=1e-3, steps=2, smoothing=0.9, diverge=4.0)
    assert len(set(compacted)) == 2  # those of the reference


@pytest.mark.parametrize(("is_apart", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_outside_a_cpu_the_lstm_leaves_autocast(monkeypatch, is_apart, dtype):
    assert tft._in_float32(SECOND) and tft._in_float32(MPS) and not tft._in_float32(CPU)
    monkeypatch.setattr(tft, "_in_float32", lambda device: is_apart)
    made, seen = assemble(*TFT, "data=synthetic_small", "data.bars=200"), []
    for layer in made.learner.model.lstm:
        layer.register_forward_hook(lambda layer, given, out: seen.append((given[0].dtype, out[0].dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        out = made.learner.model(*made.batches.group(0, 0).micros[0].inputs)
    assert {out for _, out in seen} == {dtype} and out["ret"].dtype == torch.float32
    assert not is_apart or seen == [(torch.float32, torch.float32)] * 2


# the same results whatever the kernel


def test_an_inexact_convolution_gives_the_same_features(monkeypatch):
    windows = torch.rand(5, 60, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact, conv1d = KernelEmbedding(width=64).transform(windows), kernel.F.conv1d

    def inexact(*args, **options):
        outputs = conv1d(*args, **options)
        return outputs + 0.9 * (torch.rand_like(outputs) - 0.5)

    monkeypatch.setattr(kernel.F, "conv1d", inexact)
    assert torch.equal(KernelEmbedding(width=64).transform(windows), exact)


@pytest.mark.parametrize(("rows", "size", "expected"), [(5, 4, 8), (4, 4, 4), (1, 4, 4), (0, 4, 0)])
def test_a_gpu_gets_whole_batches_and_a_cpu_what_there_is(rows, size, expected):
    given = np.arange(10, 10 + rows)
    assert filled(given, size, CPU) is given
    whole = filled(given, size, SECOND)
    assert len(whole) == expected and whole[:rows].tolist() == given.tolist()
    assert set(whole.tolist()) == set(given.tolist())


def test_embeddings_of_filled_batches_are_those_of_each_window(small, monkeypatch):
    monkeypatch.setattr(KernelEmbedding, "batch", lambda self, device: 100)
    made, sizes, transform = small(), [], KernelEmbedding.transform
    assert len(made.prepared.windows) % 100

    def counted(self, x_price):
        sizes.append(len(x_price))
        return transform(self, x_price)

    monkeypatch.setattr(KernelEmbedding, "transform", counted)
    monkeypatch.setattr(compute, "filled", lambda rows, size, device: filled(rows, size, SECOND))
    again = compute.embed(made.prepared.windows, made.config.embedding, build.DiskCache(None), CPU)
    assert (again == made.prepared.embedding).all() and set(sizes) <= {1, 100}  # 1: its width


# which GPU is asked, and what it answers


@pytest.fixture
def two_gpus(monkeypatch):
    """torch as on a machine with two GPUs, of which the second alone has bf16; what was done to them."""
    seen = SimpleNamespace(current=0, states={}, collected=[])

    @contextmanager
    def current(device):
        before, seen.current = seen.current, device.index
        yield
        seen.current = before

    for name, stand_in in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: seen.current,
        "set_device": lambda device: setattr(seen, "current", device),
        "device": current,
        "is_bf16_supported": lambda including_emulation: seen.current == 1,
        "mem_get_info": lambda device: (1000, 9000),
        "memory_reserved": lambda device: 500,
        "memory_allocated": lambda device: 200,
        "get_rng_state": lambda device: torch.tensor([device.index], dtype=torch.uint8),
        "set_rng_state": lambda state, device: seen.states.update({device.index: state.tolist()}),
        "get_rng_state_all": lambda: pytest.fail("all GPUs were read"),
        "empty_cache": lambda: seen.collected.append("cache"),
        "synchronize": lambda device=None: None,
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: 700,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return seen


def test_the_run_s_own_gpu_is_asked_for_bf16(two_gpus):
    assert machine.has_bf16(SECOND) and not machine.has_bf16(torch.device("cuda:0"))
    net = nn.Linear(2, 2)
    assert resolve("auto", SECOND, net) == "bf16" and resolve("auto", torch.device("cuda:0"), net) == "fp16"
    assert two_gpus.current == 0


def test_memory_that_the_allocator_keeps_unused_is_free(two_gpus):
    assert machine.free_memory(SECOND) == 1000 + 500 - 200


def test_cycles_are_collected_before_the_memory_is_measured(two_gpus, monkeypatch):
    order = []
    monkeypatch.setattr(gc, "collect", lambda: order.append("collect"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: order.append("allocated") or 200)
    assert measure.peak_memory(lambda: order.append("work"), SECOND) == 700 - 200
    assert order == ["collect", "allocated", "work"]


def test_a_checkpoint_has_the_state_of_the_run_s_own_gpu(two_gpus):
    state = checkpoint.rng_state(SECOND)
    assert state["cuda"].tolist() == [1] and checkpoint.rng_state(CPU).keys() == {"cpu"}
    checkpoint.set_rng_state(state, torch.device("cuda:0"))  # resumed on another
    assert two_gpus.states == {0: [1]}
    checkpoint.set_rng_state(state, CPU)
    checkpoint.set_rng_state({"cpu": state["cpu"]}, SECOND)  # of a run on a CPU
    assert two_gpus.states == {0: [1]}


@pytest.mark.parametrize(("kept", "restored"), [([7, 8], {1: [8]}), ([7], {}), ([], {})])
def test_a_checkpoint_of_version_0_1_has_the_states_of_all_gpus(two_gpus, kept, restored):
    states = [torch.tensor([value], dtype=torch.uint8) for value in kept]
    checkpoint.set_rng_state({"cpu": torch.get_rng_state(), "cuda": states}, SECOND)
    assert two_gpus.states == restored


def test_a_run_on_the_cpu_leaves_cuda_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was initialised"))
    with checkpoint.unchanged_rng(CPU):
        torch.rand(1)
    with worker._own_gpu("cpu", 1):
        pass


@pytest.mark.parametrize(("device", "current"), [("cuda", 1), ("auto", 1), ("cuda:0", 0), ("cpu", 0)])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_worker_takes_a_gpu_for_a_job_on_one_and_empties_it_afterwards(
    two_gpus, monkeypatch, device, current, compiled
):
    monkeypatch.setattr("torch.compiler.reset", lambda: two_gpus.collected.append("graphs"))
    if compiled:
        monkeypatch.setitem(sys.modules, worker.GRAPHS, None)
    else:
        monkeypatch.delitem(sys.modules, worker.GRAPHS, raising=False)
    with worker._own_gpu(device, 3):
        assert two_gpus.current == current and two_gpus.collected == []
    emptied = ["graphs", "cache"] if compiled else ["cache"]
    assert two_gpus.collected == ([] if device == "cpu" else emptied)


def test_each_process_s_gpu_is_the_current_one_before_its_data_are_placed(two_gpus, monkeypatch):
    group = SimpleNamespace(own=Rank(1, 1, 2))
    monkeypatch.setattr(distributed.ProcessGroup, "current", group)
    assert device_name("cuda") == "cuda:1" and two_gpus.current == 1
    with pytest.raises(ConfigError, match="device=mps trains in one process"):
        device_name("mps")


def test_a_dead_process_does_not_hang_a_sum_between_gpus_for_ten_minutes(monkeypatch):
    made = {}
    monkeypatch.setattr(distributed.dist, "new_group", lambda **options: made.update(options))
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, **options: SimpleNamespace(
        register_comm_hook=lambda group, hook: None
    ))  # fmt: skip
    DistributedStep(SimpleNamespace(is_mid_step=False, gpus=None), nn.Linear(1, 1), SECOND)
    assert made["backend"] == "nccl" and made["timeout"].total_seconds() <= 300


@pytest.mark.parametrize(
    ("device", "missing", "reason"),
    [
        ("cuda", "triton", "no Triton"),
        ("cuda", "Python.h", "no Python.h"),
        ("cpu", "Python.h", "no Python.h"),
        ("cpu", "triton", None),
        ("cuda", "", None),
    ],
)
def test_a_compiler_alone_does_not_suffice(monkeypatch, tmp_path, device, missing, reason):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == missing else name)
    headers = tmp_path / "nowhere" if missing == "Python.h" else tmp_path
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(headers))
    found = machine.lacks_compiler(torch.device(device))
    assert found is None if reason is None else found.startswith(reason)


def test_the_range_test_runs_eagerly_where_the_run_is_compiled(small, monkeypatch):
    from stockenh.commands.train import range_test as command

    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    made = small("train.compile=true", "finder.steps=10", "finder.seeds=2")
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: pytest.fail("compiled"))
    session = SimpleNamespace(
        config=made.config, prepared=made.prepared, ready=made.resident, fitted=made.fitted, device=CPU
    )
    for seed in command._seeds(made.config):
        net = build.model(made.config, made.prepared, CPU)
        assert len(command._curve(session, net, seed).lrs) == 10


# clocks and counts of the benchmark


@dataclass
class Gpu:
    """Calls take it some seconds, and the host only a moment, until somebody waits for it."""

    each: float
    now: float = 0.0
    queued: float = 0.0
    longest: float = 0.0

    def call(self) -> None:
        self.queued += self.each
        self.longest = max(self.longest, self.queued)
        self.now += 1e-5

    def wait(self, device: torch.device) -> None:
        self.now += self.queued
        self.queued = 0.0


@pytest.mark.parametrize("each", [2e-6, 2e-4, 5e-3, 0.4])
def test_a_turn_on_a_gpu_queues_a_millisecond_or_one_call(monkeypatch, each):
    gpu = Gpu(each)
    monkeypatch.setattr(measure, "synchronize", gpu.wait)
    monkeypatch.setattr("time.perf_counter", lambda: gpu.now)
    seconds = Clock(SECOND, seconds=1.0, rounds=3).in_turn({"a": gpu.call})["a"]
    assert seconds == pytest.approx([each + 1e-5] * 3, rel=0.01)
    assert gpu.longest <= max(1.1e-3, each)
    assert gpu.now < 3 * (0.25 + 2 * max(each, 1e-3)) + each + 0.1


def test_waiting_is_for_every_device_but_a_cpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for device in (CPU, SECOND, MPS):
        machine.synchronize(device)
    assert waited == [SECOND, MPS]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5)

    def forward(self, x):
        out = self.lstm(x)[0]
        return {"ret": out, "up_logits": out}


def test_the_floor_counts_the_products_of_an_lstm():
    setup = SimpleNamespace(net=Recurrent, inputs=lambda n: (torch.ones(7, n, 6),), batch_size=4)
    products = 3 * 2 * 7 * 4 * (4 * 5) * (6 + 5)  # forward and twice that backward; 7 bars of 4 windows
    assert floor(setup, Peaks({"fp32": 1.0}, bandwidth=1e12), "fp32") == products / 4


@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_several_processes_prefetches_streamed_windows(small, monkeypatch, rank):
    made, ahead = small("train.resident=false", "train.accumulate=2"), []
    micros = made.resident.micros
    monkeypatch.setattr(
        made.resident,
        "micros",
        lambda parts, augment, count: ahead.append(count) or micros(parts, augment, count),
    )
    batches = RankBatches(made.batches, made.prepared.windows.y_ret, Rank(rank, rank, 2))
    assert len(list(batches.groups(0, 0))) == batches.steps and ahead == [4]


# MPS


def test_mps_is_taken_where_torch_has_it_and_what_it_lacks_is_said(monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device=mps: torch finds no MPS here"):
        build.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert build.device("mps") == MPS and build.device("auto").type != "mps"
    build.require_compiler(parse(plain(compose([]))), MPS)
    line = " ".join(capsys.readouterr().err.split())
    assert line.startswith("stockenh: device=mps: untested") and "train.compile" in line
    for refused in ("train.compile=true", "train.precision=fp16"):
        with pytest.raises(ConfigError, match="device=mps has neither"):
            build.require_compiler(parse(plain(compose([refused]))), MPS)


@pytest.mark.parametrize("name", ["meta", "xpu", "banana", "mps:x", ""])
def test_other_devices_are_refused_in_a_line(name):
    with pytest.raises(ConfigError, match="write auto, cpu, cuda or cuda:1"):
        build.device(name)


def test_on_mps_nothing_is_in_float64_bf16_by_default_or_pinned(monkeypatch):
    assert sum_dtype(MPS) == torch.float32 and sum_dtype(CPU) == sum_dtype(SECOND) == torch.float64
    assert resolve("auto", MPS, nn.Linear(1000, 1000)) == "fp32" and not machine.has_bf16(MPS)
    link = HostToDevice(MPS)
    assert not link.buffer((2,), torch.float32).is_pinned()
    assert machine.free_memory(MPS) > 0
    # meta stands for a device that is neither a CPU nor CUDA
    sent = HostToDevice(torch.device("meta")).send([torch.ones(2)]).wait()
    assert sent[0].device.type == "meta"


def test_for_mps_embeddings_are_computed_on_the_cpu(small):
    made = small()
    on_mps = compute.embed(made.prepared.windows, made.config.embedding, build.DiskCache(None), MPS)
    assert (on_mps == made.prepared.embedding).all()


def test_the_generator_of_mps_is_saved_and_restored(monkeypatch):
    restored: list[Tensor] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([5]))
    monkeypatch.setattr(torch.mps, "set_rng_state", restored.append)
    with checkpoint.unchanged_rng(MPS):
        pass
    assert [state.tolist() for state in restored] == [[5]]
    checkpoint.set_rng_state(checkpoint.rng_state(CPU), MPS)
    assert len(restored) == 1


def test_the_benchmark_has_sizes_for_every_device(monkeypatch):
    clock = SimpleNamespace(device=MPS, in_turn=lambda calls: {name: np.ones(1) for name in calls})
    monkeypatch.setattr("torch.randn", lambda *shape, device: torch.ones(*shape))
    monkeypatch.setattr("torch.ones", lambda *shape, device=None: torch.zeros(4))
    assert Peaks.measured(clock).operations.keys() == {"fp32"}
