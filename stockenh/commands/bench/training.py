"""Training: the plain recipe against the project's loop and the machine's limits, and each technique alone.

Legend: A the plain recipe, B the project's loop; both take the same batch size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stockenh.commands.bench.figures import Aim, Figure, median, skipped
from stockenh.commands.bench.setup import WARM, ProjectLoop, Setup, torch_layers
from stockenh.commands.measure import Clock, in_new_process, peak_memory, process_peak
from stockenh.errors import counted
from stockenh.models.cpu.memory import keep_freed_memory
from stockenh.storage.machine import has_bf16, lacks_compiler
from stockenh.training.precision import DTYPES

TRAINING, TECHNIQUES, MEMORY, GROWTH = "training", "techniques", "memory", "growth"
LEAST_STEPS, MOST_STEPS = 4, 50  # of which the first only warms up
MEMORY_STEPS = 3
ACCUMULATE = 4
WIDTHS = (64, 128, 256)
NO_GPU = "no CUDA device"
SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices
BLOCK = {"cpu": 2**26, "cuda": 2**29}  # floats that are copied: more than any cache holds

# By model and device: what the project's loop should be, as a multiple of the plain recipe.
AIMS = {("timeformer_xl", "cpu"): Aim(2, hoped=3), ("timeformer_xl", "cuda"): Aim(8)}


@dataclass(frozen=True)
class Peaks:
    """operations: multiplications and additions per second by precision; bandwidth: bytes per second."""

    operations: dict[str, float]
    bandwidth: float

    @classmethod
    def measured(cls, clock: Clock) -> Peaks:
        """By matrix products in every precision that the device has, and a copy that no cache holds."""
        device = clock.device
        side, block = (sizes.get(device.type, sizes["cpu"]) for sizes in (SIDE, BLOCK))
        names = [
            "fp32",
            *(["bf16"] if has_bf16(device) else []),
            *(["fp16"] if device.type == "cuda" else []),
        ]
        factors = {
            name: torch.randn(2, side, side, device=device).to(DTYPES[name]).unbind() for name in names
        }
        products = {name: torch.empty_like(factors[name][0]) for name in names}

        def multiply(name: str) -> None:
            torch.mm(*factors[name], out=products[name])

        seconds = clock.in_turn({name: partial(multiply, name) for name in names})
        source = torch.ones(block, device=device)
        target = torch.empty_like(source)
        copying = clock.in_turn({"copy": lambda: target.copy_(source)})["copy"]
        operations = {name: 2 * side**3 / float(taken.min()) for name, taken in seconds.items()}
        return cls(operations, 2 * 4 * block / float(copying.min()))

    def floor(self, operations: float, moved: float, precision: str) -> float:
        """Seconds that so many operations and so many moved bytes take at least."""
        return max(operations / self.operations[precision], moved / self.bandwidth)


def training(name: str, setup: Setup, clock: Clock, peaks: Peaks) -> list[Figure]:
    """Windows per second of both, their ratio, and the share of the floor that the project's loop reaches."""
    setup = setup.with_fixed_precision()
    # the step before handles memory its own way, and what it gave back would be charged to this one
    calls: dict[str, Callable[[], None]] = {
        "plain": setup.plain_step(torch_layers(setup.net())),
        "own layers": setup.plain_step(setup.net()),
        "project": ProjectLoop(setup),
    }
    if setup.device.type == "cuda":
        calls["TF32"] = setup.plain_step(torch_layers(setup.net()), tf32=True)
    taken = replace(clock, warm=WARM).in_turn(calls)
    a, same, b = (taken[key] / setup.batch_size for key in ("plain", "own layers", "project"))
    precision, aim = setup.config.train.precision, AIMS.get((name, setup.device.type))
    plain_share, own_share = (
        100 * floor(setup, peaks, of) / seconds for of, seconds in (("fp32", a), (precision, b))
    )
    figure = partial(median, TRAINING)
    beside = []
    if "TF32" in taken:
        with_tf32 = taken["TF32"] / setup.batch_size
        beside = [
            figure(f"{name}: plain recipe with TF32", "windows/s", 1 / with_tf32),
            figure(f"{name}: project's loop / plain recipe with TF32", "times", with_tf32 / b),
        ]
    return [
        figure(f"{name}: plain recipe", "windows/s", 1 / a),
        figure(f"{name}: project's loop, {precision}", "windows/s", 1 / b),
        figure(f"{name}: project's loop / plain recipe", "times", a / b, aim),
        *beside,
        figure(f"{name}: project's loop / plain loop, same layers", "times", same / b),
        figure(f"{name}: share of the floor, plain recipe, fp32", "%", plain_share),
        figure(f"{name}: share of the floor, project's loop, {precision}", "%", own_share),
    ]


def floor(setup: Setup, peaks: Peaks, precision: str) -> float:
    """Seconds a window: the counted products of a step at the matrix peak, or its weights at the bandwidth.

    Weights are read in the forward and the backward pass; gradients are written, and read by clipping and
    optimizer; AdamW reads and writes the weights and two moments. What activations move is left out: a
    cache could hold them.
    """
    net = setup.net()
    with FlopCounterMode(display=False, custom_mapping=LSTM_PRODUCTS) as counter:
        out = net(*setup.inputs(setup.batch_size))
        (out["ret"].sum() + out["up_logits"].sum()).backward()
    passes = 2 + 3 + 6
    moved = passes * sum(p.numel() * p.element_size() for p in net.parameters())
    return peaks.floor(float(counter.get_total_flops()), float(moved), precision) / setup.batch_size


def _lstm(passes: int) -> Callable[..., int]:
    """Multiplications and additions of an LSTM over (T, B, inputs), from the shapes of its weights: torch's
    counter does not know cuDNN's and oneDNN's."""

    def count(x: Sequence[int], *others: Any, **_: Any) -> int:
        weights = others[0] if isinstance(others[0], list) else others[:4]
        products = sum(math.prod(shape) for shape in weights if len(shape) == 2)
        return passes * 2 * x[0] * x[1] * products

    return count


LSTM_PRODUCTS = {
    torch.ops.aten._cudnn_rnn: _lstm(1),
    torch.ops.aten._cudnn_rnn_backward: _lstm(2),
    torch.ops.aten.mkldnn_rnn_layer: _lstm(1),
    torch.ops.aten.mkldnn_rnn_layer_backward: _lstm(2),
}


def loop_overhead(name: str, setup: Setup, clock: Clock) -> list[Figure]:
    """The share of a step that is not forward, loss, backward, clipping or optimizer."""
    setup = setup.with_fixed_precision()
    keep_freed_memory()
    batches = setup.batches()
    learner = setup.learner(batches.steps)
    shares, until = [], time.perf_counter() + clock.seconds / 2
    for step in range(MOST_STEPS):
        if step >= LEAST_STEPS and time.perf_counter() > until:
            break
        began = clock.now()
        group = batches.group(*divmod(step, batches.steps))
        gathered = clock.now()
        learner.update(group)
        updated = clock.now()
        learner.schedule.step()
        learner.averages.update(learner.model)
        shares.append(100 * (1 - (updated - gathered) / (clock.now() - began)))
    note = "gathering, schedule and averages; a checkpoint per epoch is not in it"
    return [median(TRAINING, f"{name}: loop overhead", "%", shares[1:], Aim(5, at_most=True), note)]


def techniques(name: str, setup: Setup, clock: Clock) -> list[Figure]:
    """Times as fast as the plain recipe, with each technique that every device has alone."""
    setup = setup.with_train(accumulate=1, precision="fp32")
    low = "bf16" if has_bf16(setup.device) else "fp16" if setup.device.type == "cuda" else None
    accumulated = f"gradient accumulation of {ACCUMULATE}"

    def plain(**technique: Any) -> Callable[[], None]:
        return setup.plain_step(torch_layers(setup.net()), **technique)

    calls = {
        "plain": plain(),
        "fused optimizer": plain(fused=True),
        "data on the device": plain(batches=_resident(setup)),
        accumulated: plain(accumulate=ACCUMULATE),
        "own attention, dropout, convolution": setup.plain_step(setup.net()),
        "memory kept between steps": plain(memory_policy=keep_freed_memory),
    }
    if low is not None:
        calls[f"{low} with torch's layers"] = plain(precision=low)
        calls[f"{low} with own layers"] = setup.plain_step(setup.net(), precision=low)
    taken = replace(clock, warm=WARM).in_turn(calls)
    taken[accumulated] = taken[accumulated] / ACCUMULATE
    base = taken.pop("plain")
    found = [median(TECHNIQUES, f"{name}: {of}", "times", base / seconds) for of, seconds in taken.items()]
    if low is None:
        found.append(skipped(TECHNIQUES, f"{name}: bf16", "this processor does not multiply bf16"))
    return found


def compiling(name: str, setup: Setup, clock: Clock, wanted: bool) -> list[Figure]:
    """What torch.compile and CUDA graphs are worth alone, or why they are not available."""
    setup = setup.with_train(accumulate=1, precision="fp32")
    found = []
    for of, mode in {"torch.compile": "default", "CUDA graphs (torch.compile)": "reduce-overhead"}.items():
        why = None if wanted else "bench.compile=false"
        if mode == "reduce-overhead" and setup.device.type != "cuda":
            why = NO_GPU
        if why := why or lacks_compiler(setup.device):
            found.append(skipped(TECHNIQUES, f"{name}: {of}", why))
            continue
        net = torch_layers(setup.net())
        net.compile(mode=mode)
        step, began = setup.plain_step(net), time.perf_counter()
        for _ in range(3):
            step()
        note = f"after {time.perf_counter() - began:.0f} s of compiling"
        taken = clock.in_turn({"plain": setup.plain_step(torch_layers(setup.net())), of: step})
        found.append(median(TECHNIQUES, f"{name}: {of}", "times", taken["plain"] / taken[of], note=note))
    return found


def _resident(setup: Setup) -> Iterator[Sequence[Tensor]]:
    """Batches gathered where the bars already are."""
    batches, done = setup.batches(), 0
    while True:
        for micro in batches.group(*divmod(done, batches.steps)).micros:
            yield (*micro.inputs, micro.y_ret, micro.y_up)
        done += 1


def memory(name: str, raw: Mapping[str, Any], model: Mapping[str, Any], device: torch.device) -> list[Figure]:
    """MiB of the plain recipe and of the project's loop, and their ratio.

    On a CPU of a new process each, imports included; on CUDA of the allocator.
    """
    on_gpu = device.type == "cuda"
    aim = Aim(0.5, at_most=True) if on_gpu else None
    found = []
    for is_plain in (True, False):
        if on_gpu:
            setup = Setup.make(raw, model, device).with_fixed_precision()
            found.append(peak_memory(partial(_steps, setup, is_plain), device))
        else:
            found.append(in_new_process(process_memory, raw, model, torch.get_num_threads(), is_plain))
    plain, own = (None if value is None else value / 2**20 for value in found)
    if plain is None or own is None:
        return [skipped(MEMORY, name, "this system does not count the peak memory of a process", aim)]
    note = "of the GPU" if on_gpu else "of the process, imports included"
    return [
        Figure(MEMORY, f"{name}: peak memory, plain recipe", "MiB", plain, note=note),
        Figure(MEMORY, f"{name}: peak memory, project's loop", "MiB", own, note=note),
        Figure(MEMORY, f"{name}: peak memory, project's loop / plain", "times", own / plain, aim=aim),
    ]


def process_memory(
    raw: Mapping[str, Any], model: Mapping[str, Any], threads: int, is_plain: bool
) -> int | None:
    """Peak bytes of this process, which must be new, with some training steps on the CPU."""
    torch.set_num_threads(threads)
    _steps(Setup.make(raw, model, torch.device("cpu")).with_fixed_precision(), is_plain)
    return process_peak()


def _steps(setup: Setup, is_plain: bool) -> None:
    step = setup.plain_step(torch_layers(setup.net())) if is_plain else ProjectLoop(setup)
    for _ in range(MEMORY_STEPS):
        step()


def growth_with_parameters(raw: Mapping[str, Any], model: Mapping[str, Any], clock: Clock) -> list[Figure]:
    """A step of the project's loop; model: the node of a timeformer, whose width is varied."""
    loops, sizes = {}, {}
    for width in WIDTHS:
        setup = Setup.make(raw, {**model, "d_model": width, "ffn": 2 * width}, clock.device)
        setup = setup.with_fixed_precision()
        loop, precision = ProjectLoop(setup), setup.config.train.precision
        count = sum(p.numel() for p in loop.learner.model.parameters())
        name = f"{count:,} parameters, {precision}: one step of {loop.windows} windows"
        loops[name], sizes[name] = loop, count
    found = []
    for name, seconds in clock.in_turn(loops).items():
        each = f"{1e9 * seconds.min() / sizes[name]:.0f} ms for a million parameters"
        note = f"{each}, {counted(torch.get_num_threads(), 'thread')}"
        found.append(median(GROWTH, name, "ms", 1000 * seconds, note=note))
    return found
