"""What a measurement says: a median with its spread, and what the project aims at."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aim:
    """A limit that a figure is to keep, and what would be better still."""

    limit: float
    at_most: bool = False
    hoped: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether the value keeps the limit."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        said = f"{'at most' if self.at_most else 'at least'} {self.limit:g}"
        return said if self.hoped is None else f"{said}, hoped {self.hoped:g}"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    value: the median of `rounds`, None where it was not measured (`note` says why); low, high: the quartiles
    """

    part: str
    name: str
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    aim: Aim | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none, or nothing was measured."""
        return None if self.aim is None or self.value is None else self.aim.is_met(self.value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for bench.json."""
        aim = None if self.aim is None else str(self.aim)
        return {**asdict(self), "aim": aim, "met": self.met}


def median(
    part: str,
    name: str,
    unit: str,
    values: Sequence[float] | Floats,
    aim: Aim | None = None,
    note: str = "",
) -> Figure:
    """The median of several rounds, its quartiles beside it."""
    low, middle, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)).tolist()
    return Figure(part, name, unit, middle, low, high, len(values), aim, note)


def skipped(part: str, name: str, why: str, aim: Aim | None = None) -> Figure:
    """A figure that this machine or this config can't give."""
    return Figure(part, name, rounds=0, aim=aim, note=f"not measured: {why}")


TURN_SECONDS = 0.25  # a short call is repeated for so long in each of its turns
LEAST_ROUNDS = 3
WARM = 2  # steps until memory lies as a recipe would have it that had not begun after another one


@dataclass(frozen=True)
class Clock:
    """Seconds on a device: of the processor where one thread does it all, else of the wall.

    Processor time leaves out the moments in which a neighbour had the core.
    """

    device: torch.device
    seconds: float = 12.0  # for all rounds of a comparison
    rounds: int = 15  # at most
    until: float = math.inf  # of time.perf_counter(): when all must be done
    warm: int = 0  # calls at the beginning of each turn that are not counted

    @property
    def kind(self) -> str:
        """What the seconds are."""
        return "processor time" if self._alone else "wall time"

    @property
    def _alone(self) -> bool:
        return self.device.type == "cpu" and torch.get_num_threads() == 1

    def now(self) -> float:
        """The time at which the device has done all that it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self._alone else time.perf_counter()

    def in_turn(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, Floats]:
        """Mean seconds of each call in each round; the first call of each only warms up."""
        for call in calls.values():
            call()
        began = time.perf_counter()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for done in range(self.rounds):
            if self._is_enough(done, time.perf_counter() - began):
                break
            for name, call in calls.items():
                taken[name].append(self._turn(call))
        return {name: np.array(seconds) for name, seconds in taken.items()}

    def _is_enough(self, done: int, spent: float) -> bool:
        """Whether so many rounds will do; a machine too busy for three within thrice the time has one."""
        if done >= LEAST_ROUNDS:
            return spent > self.seconds or self.is_over
        return done > 0 and (spent > 3 * self.seconds or self.is_over)

    @property
    def is_over(self) -> bool:
        """Whether nothing more should begin."""
        return time.perf_counter() > self.until

    def _turn(self, call: Callable[[], object]) -> float:
        for _ in range(self.warm):
            call()
        began, until, count = self.now(), time.perf_counter() + TURN_SECONDS, 0
        while not count or time.perf_counter() < until:
            call()
            count += 1
        return (self.now() - began) / count
