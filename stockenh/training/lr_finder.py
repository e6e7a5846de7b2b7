"""The learning-rate range test (Smith 2017): at which rates does the loss fall, and where does it blow up?

It runs the very training step, on a rate that rises exponentially, and then leaves no trace.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.config.schema import FinderConfig
from stockenh.data.batches import Group
from stockenh.training.checkpoint import rng_state, set_rng_state
from stockenh.training.precision import NonFiniteGradient
from stockenh.training.schedules import Ramp
from stockenh.training.step import Learner

Floats = NDArray[np.float64]

# A descent counts where it exceeds so many standard deviations of the smoothed curve at its lowest point,
# and this share of the loss that it began with.
NOISE = 2.0
SHARE = 1e-3

# The plateau before the descent ends where this share of the descent is made.
PLATEAU = 0.1

# Points before the lowest one from which the noise there is told.
NEAR = 20
FEWEST_POINTS = 10


class Batches(Protocol):
    """Groups of micro batches, by epoch and optimizer step."""

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""

    def group(self, epoch: int, step: int) -> Group:
        """The micro batches of one optimizer step."""


@dataclass(frozen=True)
class Curve:
    """Loss against rate, a point per step that was taken.

    What a batch happens to hold moves its loss far more than a hundred steps of learning do (on the sample
    twenty times as much). So each loss is compared with the one that the untouched model has on the same
    batch, with the same dropout: a control variate, which leaves the change that the rates have brought.

    lrs:       the rate of each step (of the first parameter group)
    losses:    the loss that the step began with
    untouched: the untouched model's loss on the same batch
    smoothed:  the bias-corrected exponential mean of their difference; below 0 the model has learnt
    smoothing: weight of the past in that mean
    diverged:  whether the test ended before its last rate, for the loss blew up
    skipped:   steps that fp16 skipped; their rate was tried again
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    untouched: tuple[float, ...]
    smoothed: tuple[float, ...]
    smoothing: float
    diverged: bool
    skipped: int

    @property
    def level(self) -> float:
        """The untouched model's mean loss."""
        return float(np.mean(self.untouched))


@dataclass(frozen=True)
class Suggestions:
    """Three readings of a curve; None where there is none, and then `reason` says why.

    valley:   the middle, on a log scale, of the longest descent (the idea of fastai's `valley`)
    steepest: where the loss falls fastest per factor of the rate
    minimum:  a tenth of the rate with the lowest loss
    """

    valley: float | None = None
    steepest: float | None = None
    minimum: float | None = None
    reason: str | None = None

    @property
    def lr(self) -> float | None:
        """The one to take, to three digits: the valley, else the steepest, else the minimum's."""
        for rate in (self.valley, self.steepest, self.minimum):
            if rate is not None:
                return float(f"{rate:.2e}")
        return None


def range_test(learner: Learner, batches: Batches, settings: FinderConfig) -> Curve:
    """Trains over the ramp until it ends or the loss diverges; batches begin anew where an epoch ends.

    Afterwards the learner, the model's modes and gradients, and torch's random state are, to the bit, what
    they were before.
    """
    with untouched(learner):
        learner.model.train()
        reference = replace(learner, model=copy.deepcopy(learner.model))
        ramp = Ramp(learner.optimizer, settings.start_lr, settings.end_lr, settings.steps)
        return _climb(replace(learner, schedule=ramp), reference, batches, settings)


@contextmanager
def untouched(learner: Learner) -> Iterator[None]:
    """Puts all that a step changes back to what it was on entering."""
    state, random = copy.deepcopy(learner.checkpoint()), rng_state()
    modes = {module: module.training for module in learner.model.modules()}
    gradients = {p: p.grad for p in learner.model.parameters()}  # a step drops them, it doesn't write to them
    try:
        yield
    finally:
        learner.restore(state)
        for module, training in modes.items():
            module.training = training
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        set_rng_state(random)


def _climb(learner: Learner, reference: Learner, batches: Batches, settings: FinderConfig) -> Curve:
    curve = _Recorder(settings)
    skipped = 0
    while len(curve.lrs) < settings.steps and not curve.diverged:
        group = batches.group(*divmod(len(curve.lrs) + skipped, batches.steps))
        untouched, lr = _forward(reference, group), learner.schedule.lr
        try:
            loss, taken = learner.step(group)
            learner.precision.require_finite(now=True)
        except NonFiniteGradient:
            curve.diverged = True
            break
        if taken or not torch.isfinite(loss):
            curve.add(lr, float(loss), untouched)
        else:
            skipped += 1
    return curve.close(skipped)


def _forward(reference: Learner, group: Group) -> float:
    """A group's loss with the dropout that the next step will have, whose random numbers are put back."""
    random = rng_state()
    with torch.no_grad():
        loss = float(torch.stack(list(reference.losses(group))).sum())
    set_rng_state(random)
    return loss


class _Recorder:
    """The points of a curve as they come in, and whether it has blown up."""

    def __init__(self, settings: FinderConfig) -> None:
        self.settings = settings
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.untouched: list[float] = []
        self.smoothed: list[float] = []
        self.diverged = False
        self._mean = 0.0
        self._best = math.inf

    def add(self, lr: float, loss: float, untouched: float) -> None:
        """A step was taken. A loss that is not finite is no point, but the end."""
        if not math.isfinite(loss):
            self.diverged = True
            return
        weight = self.settings.smoothing
        self._mean = weight * self._mean + (1 - weight) * (loss - untouched)
        self.lrs.append(lr)
        self.losses.append(loss)
        self.untouched.append(untouched)
        self.smoothed.append(self._mean / (1 - weight ** len(self.lrs)))
        self._best = min(self._best, self.smoothed[-1])
        level = float(np.mean(self.untouched))
        now, best = level + self.smoothed[-1], level + self._best
        # for a loss above 0 this is diverge x best; learned task weights can bring it below 0
        self.diverged = now > best + (self.settings.diverge - 1) * abs(best)

    def close(self, skipped: int) -> Curve:
        return Curve(
            lrs=tuple(self.lrs),
            losses=tuple(self.losses),
            untouched=tuple(self.untouched),
            smoothed=tuple(self.smoothed),
            smoothing=self.settings.smoothing,
            diverged=self.diverged,
            skipped=skipped,
        )


def suggest(curve: Curve) -> Suggestions:
    """Reads a curve. The first tenth of it, where smoothing has little to go by, is left out."""
    if len(curve.lrs) < FEWEST_POINTS:
        return Suggestions(
            reason=f"the loss blew up within {len(curve.lrs) + 1} steps: lower finder.start_lr, or check "
            "the bars"
        )
    logs, smoothed = np.log(curve.lrs), np.array(curve.smoothed)
    first = len(logs) // 10
    lowest = first + int(smoothed[first:].argmin())
    fall, noise = float(-smoothed[lowest]), _noise(curve, lowest)
    if not (fall > NOISE * noise and fall > SHARE * abs(curve.level)):
        return Suggestions(
            reason=f"the curve is flat: from {curve.level:.4g} the loss falls by {max(fall, 0):.2g} at most, "
            f"where its noise is {noise:.2g}. Try a higher finder.end_lr, more finder.steps or a larger "
            f"train.batch_size, or set optimizer.lr"
        )
    plateau = np.flatnonzero(smoothed[: lowest + 1] > -PLATEAU * fall)
    start = max(first, int(plateau[-1]) if len(plateau) else 0)
    descent = slice(start, lowest + 1)
    return Suggestions(
        valley=_valley(logs[descent], smoothed[descent]),
        steepest=_steepest(logs[descent], smoothed[descent]),
        minimum=math.exp(logs[lowest]) / 10,
    )


def _noise(curve: Curve, lowest: int) -> float:
    """The standard deviation of the smoothed curve near its lowest point.

    Second differences are free of the descent itself, and their median of the blow-up; for independent
    normal noise it is 0.6745 times sqrt(6) standard deviations. Smoothing with weight b leaves
    sqrt((1 - b) / (1 + b)) of one.
    """
    begin = max(lowest - NEAR, 0)
    changes = np.subtract(curve.losses, curve.untouched)[begin : max(lowest + 1, FEWEST_POINTS)]
    single = float(np.median(np.abs(np.diff(changes, 2)))) / (0.6745 * math.sqrt(6))
    return single * math.sqrt((1 - curve.smoothing) / (1 + curve.smoothing))


def _valley(logs: Floats, losses: Floats) -> float | None:
    """The middle of the longest decreasing subsequence: not contiguous, it steps over noise."""
    lengths, starts = np.ones(len(losses), int), np.arange(len(losses))
    for i in range(1, len(losses)):
        higher = np.flatnonzero(losses[:i] > losses[i])
        if len(higher):
            before = higher[lengths[higher].argmax()]
            lengths[i], starts[i] = lengths[before] + 1, starts[before]
    end = int(lengths.argmax())
    if lengths[end] < 3:
        return None
    return float(math.exp((logs[starts[end]] + logs[end]) / 2))


def _steepest(logs: Floats, losses: Floats) -> float | None:
    """Where d loss / d log rate is lowest, off the two ends."""
    if len(logs) < 4:
        return None
    slopes = np.gradient(losses, logs)[1:-1]
    at = int(slopes.argmin())
    return float(math.exp(logs[1 + at])) if slopes[at] < 0 else None
