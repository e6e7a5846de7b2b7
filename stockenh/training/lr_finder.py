"""The learning-rate range test (Smith 2017): at which rates does the loss fall, and where does it diverge?

It runs the same training step as a run, on a rate that rises exponentially, and leaves no trace.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.data.batches import Group, TrainBatches
from stockenh.models.layers import copied
from stockenh.training.checkpoint import rng_state, set_rng_state
from stockenh.training.optimizers import Schedule, ramp
from stockenh.training.precision import NonFiniteGradient
from stockenh.training.step import Learner

Floats = NDArray[np.float64]

# A descent counts where it exceeds this many standard deviations of the smoothed curve at its lowest point,
# and this share of the initial loss.
NOISE = 2.0
SHARE = 1e-3
PLATEAU = 0.1  # the plateau before the descent ends at this share of the descent
NEAR = 20  # points before the lowest one from which the noise is estimated
FEWEST_POINTS = 10
ROOT = 1 / (2 * math.sqrt(math.pi))
WIDEST = 0.4  # decades


@dataclass(frozen=True)
class Curve:
    """Loss against rate, a point per step that was taken.

    The choice of batch moves the loss far more than a hundred steps of training do (on the sample twenty
    times as much). So each loss is compared with that of the initial model on the same batch with the same
    dropout: a control variate, which leaves the change that the rates have caused.

    lrs:       the rate of each step (of the first parameter group)
    losses:    the loss before the step
    untouched: the initial model's loss on the same batch
    smoothing: how much noise to average out: as an exponential mean with this weight of the past
    diverged:  whether the test ended before its last rate because the loss diverged
    skipped:   steps that fp16 skipped; their rate was tried again
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    untouched: tuple[float, ...]
    smoothing: float
    diverged: bool
    skipped: int

    @property
    def changes(self) -> Floats:
        """The losses minus those of the initial model; below 0 the model has improved."""
        return np.subtract(self.losses, self.untouched)

    @property
    def smooth(self) -> tuple[Floats, Floats]:
        """Log rates and changes, averaged with the same weights.

        An exponential mean of the past lags b / (1 - b) steps behind its rate, 9 at b = 0.9: 0.6 of a decade.
        So the weights are a Gaussian around each step. At the ends, where it has one side only, the rates are
        averaged alike.
        """
        from scipy.ndimage import gaussian_filter1d  # only the finder needs it

        logs, changes, width = np.log(np.array(self.lrs)), self.changes, self.width
        if width == 0:
            return logs, changes
        ones = np.ones(len(logs))
        sums = (gaussian_filter1d(values, width, mode="constant") for values in (logs, changes, ones))
        of_logs, of_changes, total = sums
        return of_logs / total, of_changes / total

    @property
    def width(self) -> float:
        """The Gaussian's standard deviation in steps.

        It leaves the noise that the exponential mean would, (1 - b) / (1 + b) of the variance, but spans
        WIDEST decades at most: few steps would have no shape else.
        """
        if self.smoothing == 0 or len(self.lrs) < 2:
            return 0.0
        step = math.log10(self.lrs[-1] / self.lrs[0]) / (len(self.lrs) - 1)
        return min((1 + self.smoothing) / (1 - self.smoothing) * ROOT, WIDEST / step)

    @property
    def level(self) -> float:
        """The initial model's mean loss."""
        return float(np.mean(self.untouched))


@dataclass(frozen=True)
class Suggestions:
    """Three readings of a curve; None where there is none, with the reason in `reason`.

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
        """The recommended one, to three digits: the valley, else the steepest, else the minimum's."""
        known = [rate for rate in (self.valley, self.steepest, self.minimum) if rate is not None]
        return float(f"{known[0]:.2e}") if known else None


def range_test(
    learner: Learner,
    batches: TrainBatches,
    *,
    start_lr: float,
    end_lr: float,
    steps: int,
    smoothing: float,
    diverge: float,
) -> Curve:
    """Trains for `steps` steps of rising rates, or until the mean loss is `diverge` times its best.

    smoothing: weight of the past in the exponential mean that tells a divergence. Afterwards the learner, the
    model's modes and gradients, and torch's random state are bit-identical to what they were before.
    """
    with unchanged(learner):
        learner.model.train()
        reference = replace(learner, model=copied(learner.model))
        rising = Schedule(learner.optimizer, ramp(start_lr, end_lr, steps))
        return _climb(replace(learner, schedule=rising), reference, batches, steps, smoothing, diverge)


@contextmanager
def unchanged(learner: Learner) -> Iterator[None]:
    """Restores everything that a step changes when the block ends."""
    device = learner.precision.device
    state, random = copy.deepcopy(learner.checkpoint()), rng_state(device)
    modes = {module: module.training for module in learner.model.modules()}
    # a step may drop them or write to them
    gradients = {p: None if p.grad is None else p.grad.clone() for p in learner.model.parameters()}
    try:
        yield
    finally:
        learner.restore(state)
        for module, training in modes.items():
            module.training = training
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        set_rng_state(random, device)


def _climb(
    learner: Learner, reference: Learner, batches: TrainBatches, steps: int, smoothing: float, diverge: float
) -> Curve:
    lrs: list[float] = []
    losses: list[float] = []
    untouched: list[float] = []
    mean, lowest, skipped, diverged = 0.0, math.inf, 0, False
    while len(lrs) < steps and not diverged:
        group = batches.group(*divmod(len(lrs) + skipped, batches.steps))
        initial, lr = _loss_of(reference, group), learner.schedule.lr
        try:
            loss, taken = learner.step(group)
            learner.precision.require_finite(now=True)
        except NonFiniteGradient:
            diverged = True
            break
        if not (torch.isfinite(loss) and math.isfinite(initial)):
            diverged = True
        elif not taken:
            skipped += 1
        else:
            mean = smoothing * mean + (1 - smoothing) * (float(loss) - initial)
            lrs.append(lr)
            losses.append(float(loss))
            untouched.append(initial)
            recent = mean / (1 - smoothing ** len(lrs))  # corrected for the start at 0
            lowest = min(lowest, recent)
            level = float(np.mean(untouched))
            best = level + lowest
            # for a loss above 0 this is diverge x best; learned task weights can bring it below 0
            diverged = level + recent > best + (diverge - 1) * abs(best)
    return Curve(tuple(lrs), tuple(losses), tuple(untouched), smoothing, diverged, skipped)


def _loss_of(reference: Learner, group: Group) -> float:
    """A group's loss with the dropout of the next step; the random state stays as it is."""
    device = reference.precision.device
    random = rng_state(device)
    with torch.no_grad():
        loss = float(torch.stack(list(reference.losses(group))).sum())
    set_rng_state(random, device)
    return loss


def suggest(curve: Curve) -> Suggestions:
    """Reads a curve, without its first tenth, where the mean rests on few points."""
    if len(curve.lrs) < FEWEST_POINTS:
        return Suggestions(
            reason=f"the loss diverged within {len(curve.lrs) + 1} steps: lower finder.start_lr, or check "
            "the bars"
        )
    logs, smoothed = curve.smooth
    first = len(logs) // 10
    lowest = first + int(smoothed[first:].argmin())
    fall, noise = float(-smoothed[lowest]), _noise(curve, lowest)
    if not (fall > NOISE * noise and fall > SHARE * abs(curve.level)):
        return Suggestions(
            reason=f"the curve is flat: from {curve.level:.4g} the loss falls by {max(fall, 0):.2g} at most, "
            f"with a noise of {noise:.2g}. Try a higher finder.end_lr, more finder.steps or a larger "
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


def median(found: Sequence[Suggestions]) -> Suggestions:
    """Each reading's median over several curves; none with a reason where most curves have none."""
    flat = [one for one in found if one.lr is None]
    if 2 * len(flat) > len(found):
        return Suggestions(reason=flat[0].reason)

    def middle(name: str) -> float | None:
        rates = [rate for one in found if (rate := getattr(one, name)) is not None]
        return math.exp(float(np.median(np.log(rates)))) if rates else None

    return Suggestions(middle("valley"), middle("steepest"), middle("minimum"))


def _noise(curve: Curve, lowest: int) -> float:
    """The standard deviation of the smoothed curve near its lowest point.

    Second differences remove the descent itself, and their median removes the divergence; for independent
    normal noise it is 0.6745 times sqrt(6) standard deviations. A Gaussian mean of width w leaves
    1 / (2 sqrt(pi) w) of the variance, a narrow one all of it.
    """
    begin = max(lowest - NEAR, 0)
    changes = curve.changes[begin : max(lowest + 1, FEWEST_POINTS)]
    single = float(np.median(np.abs(np.diff(changes, 2)))) / (0.6745 * math.sqrt(6))
    return single * math.sqrt(min(ROOT / curve.width, 1.0) if curve.width else 1.0)


def _valley(logs: Floats, losses: Floats) -> float | None:
    """The middle of the longest decreasing subsequence: not contiguous, noise in between does not end it."""
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
    """Where d loss / d log rate is lowest, without the two ends."""
    if len(logs) < 4:
        return None
    slopes = np.gradient(losses, logs)[1:-1]
    lowest = int(slopes.argmin())
    return float(math.exp(logs[1 + lowest])) if slopes[lowest] < 0 else None
