"""Training: the plain recipe against the project's loop, and how near both come to what the machine can do.

Legend: A the plain recipe, B the project's loop; both take the same batch size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stockenh.commands.bench.bench import Peaks
from stockenh.commands.bench.clock import WARM, Aim, Clock, Figure, Floats, median
from stockenh.commands.bench.plain import PlainRecipe, loaded, torch_layers
from stockenh.commands.bench.setup import Bed
from stockenh.models.cpu.memory import hand_back_freed_memory, keep_freed_memory
from stockenh.training.precision import resolve

PART = "training"
LEAST_STEPS, MOST_STEPS = 4, 50  # of which the first only warms up
PLAIN_WINDOWS = 1024  # in the plain recipe's data set

# Section by device: what the project's loop is to be times the plain recipe.
AIMS = {
    ("timeformer_xl", "cpu"): Aim(2, hoped=3),
    ("timeformer_xl", "cuda"): Aim(8),
}


class ProjectLoop:
    """One optimizer step at a call, by the project's own batches and learner, as its loop takes it."""

    def __init__(self, bed: Bed) -> None:
        self.batches = bed.batches()
        self.learner = bed.learner(bed.net(), self.batches.steps)
        self.done = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=bed.device)
        self.windows = self.batches.group_size

    def __call__(self) -> None:
        keep_freed_memory()
        group = self.batches.group(*divmod(self.done, self.batches.steps))
        loss, _ = self.learner.step(group)
        self.loss_sum += loss * group.count
        self.done += 1


def plain_step(bed: Bed, net: nn.Module) -> Callable[[], None]:
    """The plain recipe on these windows, with memory handled as the C library does it unasked."""
    batch = bed.config.train.batch_size
    step = PlainRecipe(net, loaded(bed.tensors(max(PLAIN_WINDOWS, batch)), batch), bed.device)

    def call() -> None:
        hand_back_freed_memory()
        step()

    return call


def settled(bed: Bed) -> Bed:
    """With the precision that `auto` takes, and one micro batch a step."""
    precision = resolve(bed.config.train.precision, bed.device, bed.net())
    return bed.with_train(precision=precision, accumulate=1)


def training(name: str, bed: Bed, clock: Clock, peaks: Peaks) -> list[Figure]:
    """Windows per second of both, their ratio, and the share of the floor that the project's loop reaches."""
    bed = settled(bed)
    own, batch = ProjectLoop(bed), bed.config.train.batch_size
    # the step before handles memory its own way, and what it gave back would be charged to this one
    taken = replace(clock, warm=WARM).in_turn(
        {
            "plain": plain_step(bed, torch_layers(bed.net())),
            "own layers": plain_step(bed, bed.net()),
            "project": own,
        }
    )
    a, same, b = (taken[key] / batch for key in ("plain", "own layers", "project"))
    precision, aim = bed.config.train.precision, AIMS.get((name, bed.device.type))
    plain_floor, own_floor = (floor(bed, peaks, of) for of in ("fp32", precision))
    return [
        median(PART, f"{name}: plain recipe", "windows/s", 1 / a),
        median(PART, f"{name}: project's loop, {precision}", "windows/s", 1 / b),
        median(PART, f"{name}: project's loop / plain recipe", "times", a / b, aim),
        median(PART, f"{name}: project's loop / plain loop, same layers", "times", same / b),
        _share(name, "plain recipe, fp32", plain_floor / a),
        _share(name, f"project's loop, {precision}", own_floor / b),
    ]


def _share(name: str, of: str, shares: Floats) -> Figure:
    return median(PART, f"{name}: share of the floor, {of}", "%", 100 * shares)


def floor(bed: Bed, peaks: Peaks, precision: str) -> float:
    """Seconds a window: the counted products of a step at the matrix peak, or its weights at the bandwidth.

    Weights are read in the forward and the backward pass; gradients are written, and read by clipping and
    optimizer; AdamW reads and writes the weights and two moments. What activations move is left out: a
    cache could hold them.
    """
    net, batch = bed.net(), bed.config.train.batch_size
    with FlopCounterMode(display=False) as counter:
        out = net(*bed.inputs(batch))
        (out["ret"].sum() + out["up_logits"].sum()).backward()
    passes = 2 + 3 + 6
    moved = passes * sum(p.numel() * p.element_size() for p in net.parameters())
    return peaks.floor(float(counter.get_total_flops()), float(moved), precision) / batch


def loop_overhead(name: str, bed: Bed, clock: Clock) -> list[Figure]:
    """The share of a step that is not forward, loss, backward, clipping or optimizer."""
    bed = settled(bed)
    keep_freed_memory()
    batches = bed.batches()
    learner = bed.learner(bed.net(), batches.steps)
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
        ended = clock.now()
        shares.append(100 * (1 - (updated - gathered) / (ended - began)))
    note = "gathering, schedule and averages; a checkpoint an epoch comes to it"
    return [median(PART, f"{name}: loop overhead", "%", shares[1:], Aim(5, at_most=True), note)]
