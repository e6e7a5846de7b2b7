"""The config group `schedule`: the learning rate by optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import SWALR

from stockenh.errors import ConfigError


class Schedule:
    """Steps once for every optimizer step that was taken."""

    def __init__(self, scheduler: LRScheduler, optimizer: Optimizer) -> None:
        self._scheduler = scheduler
        self._optimizer = optimizer
        self.taken = 0

    @property
    def lr(self) -> float:
        """The rate that the next step will use."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        self.taken += 1
        self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the stored step. torch's schedulers know the rate of a step by its number alone, so this
        also lays the schedule anew where the run was given more epochs."""
        self.taken = int(state["taken"])
        if self.taken:
            self._scheduler.last_epoch = self.taken - 1
            self._scheduler._step_count = max(self.taken, 2)  # at 1 torch would warn of a missing step
            self._scheduler.step()


class SwaSchedule(Schedule):
    """Another schedule until step `start`, then SWA's own rate: constant, or reached along a cosine.

    Momentum that OneCycle left in the middle of its cycle goes back to the optimizer's own.
    """

    def __init__(
        self, before: Schedule, optimizer: Optimizer, start: int, rate: float, anneal_steps: int
    ) -> None:
        self._before = before
        self._optimizer = optimizer
        self._start = start
        self._rate = rate
        self._anneal_steps = anneal_steps
        self._swa: SWALR | None = None
        self.taken = 0
        if start == 0:
            self._enter()

    def step(self) -> None:
        self.taken += 1
        if self._swa is not None:
            self._swa.step()
        elif self.taken == self._start:
            self._enter()
        else:
            self._before.step()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the stored step; within SWA the optimizer's stored rate is the one to go on from."""
        self.taken = int(state["taken"])
        if self.taken < self._start:
            self._before.load_state_dict(state)
            return
        rates = [group["lr"] for group in self._optimizer.param_groups]
        self._enter()
        assert self._swa is not None
        self._swa.last_epoch = self.taken - self._start
        self._swa._step_count = self._swa.last_epoch + 1
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _enter(self) -> None:
        _reset_momentum(self._optimizer)
        self._swa = SWALR(self._optimizer, self._rate, anneal_epochs=self._anneal_steps)


class Ramp(Schedule):
    """An exponential rise from `start` to `end`, both included, in `steps` steps: the range test's rate.

    All parameter groups rise; the ratio of their rates stays. Momentum is the optimizer's own, whatever
    another schedule has made of it.
    """

    def __init__(self, optimizer: Optimizer, start: float, end: float, steps: int) -> None:
        self._optimizer = optimizer
        self._start = start
        self._factor = end / start
        self._intervals = steps - 1
        groups = optimizer.param_groups
        self._ratios = [group["lr"] / groups[0]["lr"] for group in groups]
        _reset_momentum(optimizer)
        self.taken = 0
        self._set()

    def step(self) -> None:
        self.taken += 1
        self._set()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the stored step."""
        self.taken = int(state["taken"])
        self._set()

    def _set(self) -> None:
        rate = self._start * self._factor ** (self.taken / self._intervals)
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio


def _reset_momentum(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for key in ("betas", "momentum"):
            if key in optimizer.defaults:
                group[key] = optimizer.defaults[key]


class ScheduleSettings(ABC):
    """Settings of a schedule."""

    @abstractmethod
    def build(self, optimizer: Optimizer, peak: float, steps: int) -> Schedule:
        """peak: the highest rate; steps: optimizer steps of the whole run."""


@dataclass(frozen=True)
class OneCycle(ScheduleSettings):
    """Cosine from peak / start_factor up to peak, then down to that start / end_factor.

    Momentum (AdamW's first beta) cycles the other way, 0.95 to 0.85 and back (Smith and Topin 2018).
    """

    warmup: float = 0.3
    start_factor: float = 10.0
    end_factor: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.warmup < 1:
            raise ConfigError(f"schedule.warmup={self.warmup} must be a share of the steps between 0 and 1")
        for name in ("start_factor", "end_factor"):
            if getattr(self, name) < 1:
                raise ConfigError(f"schedule.{name}={getattr(self, name)} must be 1 or more")

    def build(self, optimizer: Optimizer, peak: float, steps: int) -> Schedule:
        # torch divides by the length of the warm-up less one step, which must not be exactly zero
        warmup = self.warmup * (1 + 1e-9) if self.warmup * steps == 1 else self.warmup
        scheduler = OneCycleLR(
            optimizer,
            max_lr=peak,
            total_steps=steps,
            pct_start=warmup,
            div_factor=self.start_factor,
            final_div_factor=self.end_factor,
        )
        return Schedule(scheduler, optimizer)


@dataclass(frozen=True)
class Constant(ScheduleSettings):
    """The peak rate at every step."""

    def build(self, optimizer: Optimizer, peak: float, steps: int) -> Schedule:
        return Schedule(ConstantLR(optimizer, factor=1.0, total_iters=0), optimizer)
