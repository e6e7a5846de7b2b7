"""The config group `optimizer`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from stockenh.data import Share
from stockenh.errors import ConfigError

AUTO: Final = "auto"


@dataclass(frozen=True)
class OptimizerSettings(ABC):
    """Settings of an optimizer; `lr` is the peak of the schedule, or "auto": a range test finds it."""

    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = 1e-3

    @property
    def peak(self) -> float:
        """`lr` as a number. Raises ConfigError while it is to be found."""
        if self.lr == AUTO:
            raise ConfigError("optimizer.lr=auto must be found first; give a number here")
        return self.lr

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over all parameters."""


@dataclass(frozen=True)
class AdamW(OptimizerSettings):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's fused form.

    decay_vectors: whether biases and the weights of norms decay, too; a decay that acts on the others would
    pull these away from what they are for
    """

    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    decay_vectors: bool = True

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        groups: list[dict[str, Any]] = [{"params": parameters}]
        if not self.decay_vectors:
            matrices, vectors = (
                [p for p in parameters if (p.ndim > 1) == is_matrix] for is_matrix in (True, False)
            )
            groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.peak, weight_decay=self.weight_decay, fused=True)


# The learning rate, and the momentum or None for the optimizer's own, after so many steps.
Plan = Callable[[int], tuple[float, float | None]]
HIGH_MOMENTUM, LOW_MOMENTUM = 0.95, 0.85


def one_cycle(peak: float, steps: int, warmup: float, start_factor: float, end_factor: float) -> Plan:
    """The one-cycle policy (Smith and Topin 2018), to the last bit that of torch's OneCycleLR.

    A cosine from peak / start_factor to peak at the share `warmup` of the steps, then one down to the start /
    end_factor at the last step. Momentum moves the other way.
    """
    start = peak / start_factor
    end = start / end_factor
    # the length of the rise, less one step, must not be exactly 0: it is divided by
    top = float((warmup * (1 + 1e-9) if warmup * steps == 1 else warmup) * steps) - 1

    def plan(step: int) -> tuple[float, float | None]:
        if step <= top:
            share = step / top
            return _cosine(start, peak, share), _cosine(HIGH_MOMENTUM, LOW_MOMENTUM, share)
        share = (step - top) / (steps - 1 - top)
        return _cosine(peak, end, share), _cosine(LOW_MOMENTUM, HIGH_MOMENTUM, share)

    return plan


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def with_swa(before: Plan, first: int, rate: float, anneal_steps: int) -> Plan:
    """Another plan for `first` steps, then SWA's own rate with the optimizer's own momentum.

    The rate is reached along a cosine of anneal_steps, at once where that is 0; to the last bit as in torch's
    SWALR, which computes each rate from the one before it.
    """
    rates = [before(max(first - 1, 0))[0]]
    for step in range(1, anneal_steps):
        past, share = ((1 - math.cos(math.pi * s / anneal_steps)) / 2 for s in (step - 1, step))
        rates.append(rate * share + (rates[-1] - past * rate) / (1 - past) * (1 - share))

    def plan(step: int) -> tuple[float, float | None]:
        if step < first:
            return before(step)
        return rates[step - first] if step - first < anneal_steps else rate, None

    return plan


def ramp(start: float, end: float, steps: int) -> Plan:
    """An exponential rise from `start` to `end`, both included, in `steps` steps: the range test's rate."""
    return lambda step: (start * (end / start) ** (step / (steps - 1)), None)


class Schedule:
    """Sets an optimizer's learning rate and momentum by a plan; steps once for every optimizer step taken.

    All parameter groups follow it; the ratio of their rates stays.
    """

    def __init__(self, optimizer: Optimizer, plan: Plan) -> None:
        self._optimizer = optimizer
        self._plan = plan
        groups = optimizer.param_groups
        self._ratios = [group["lr"] / groups[0]["lr"] for group in groups]
        self.taken = 0
        self._set()

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        self.taken += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the stored step of this plan, which is another one where the run got more epochs."""
        self.taken = int(state["taken"])
        self._set()

    def _set(self) -> None:
        rate, momentum = self._plan(self.taken)
        defaults = self._optimizer.defaults
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio
            if "betas" in defaults:
                first = defaults["betas"][0] if momentum is None else momentum
                group["betas"] = (first, *defaults["betas"][1:])
            elif "momentum" in defaults:
                group["momentum"] = defaults["momentum"] if momentum is None else momentum


class ScheduleSettings(ABC):
    """Settings of a schedule. warmup: the share of the steps in which the rate rises."""

    warmup: float = 0.0

    @abstractmethod
    def plan(self, peak: float, steps: int) -> Plan:
        """peak: the highest rate; steps: optimizer steps of the whole run."""


@dataclass(frozen=True)
class OneCycle(ScheduleSettings):
    """See `one_cycle`."""

    warmup: Share = 0.3  # share of the steps
    start_factor: Annotated[float, Field(ge=1)] = 10.0
    end_factor: Annotated[float, Field(ge=1)] = 100.0

    def plan(self, peak: float, steps: int) -> Plan:
        return one_cycle(peak, steps, self.warmup, self.start_factor, self.end_factor)


@dataclass(frozen=True)
class Constant(ScheduleSettings):
    """The peak rate at every step."""

    def plan(self, peak: float, steps: int) -> Plan:
        return lambda step: (peak, None)
