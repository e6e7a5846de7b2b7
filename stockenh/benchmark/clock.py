"""Timing calls in turn, A B A B, so that a busy neighbour is as bad for one as for the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from stockenh.benchmark.figures import Floats

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
