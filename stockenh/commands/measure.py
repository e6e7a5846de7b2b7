"""What the commands that measure costs share: calls timed in turn, and the peak memory of a process."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from stockenh.config import plugins
from stockenh.storage.machine import synchronize

LEAST_ROUNDS = 3
LONGEST_QUEUE = 1e-3  # seconds of calls that a GPU is given without waiting for it

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Clock:
    """Seconds on a device: of the processor where one thread does all the work, else of the wall.

    Processor time leaves out the moments in which another process had the core. Calls take turns, A B A B: a
    busy neighbour then slows one as much as the other.
    """

    device: torch.device
    seconds: float = 12.0  # for all rounds of a comparison
    rounds: int = 15  # at most
    turn: float = 0.25  # seconds for which a short call is repeated in each of its turns
    warm: int = 0  # calls at the beginning of each turn that are not counted
    until: float = math.inf  # of time.perf_counter(): when all must be done

    @property
    def kind(self) -> str:
        """What the seconds are."""
        return "processor time" if self._is_single_threaded else "wall time"

    @property
    def _is_single_threaded(self) -> bool:
        return self.device.type == "cpu" and torch.get_num_threads() == 1

    @property
    def is_over(self) -> bool:
        """Whether nothing more should begin."""
        return time.perf_counter() > self.until

    def now(self) -> float:
        """The time at which the device has finished all its work."""
        synchronize(self.device)
        return time.process_time() if self._is_single_threaded else time.perf_counter()

    def in_turn(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, Seconds]:
        """Mean seconds of each call in each round; the first call of each only warms up."""
        for call in calls.values():
            call()
        synchronize(self.device)
        began = time.perf_counter()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for done in range(self.rounds):
            if self._is_enough(done, time.perf_counter() - began):
                break
            for name, call in calls.items():
                taken[name].append(self._turn(call))
        return {name: np.array(seconds) for name, seconds in taken.items()}

    def medians(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """The median over the rounds of `in_turn`."""
        return {name: float(np.median(seconds)) for name, seconds in self.in_turn(calls).items()}

    def _is_enough(self, done: int, spent: float) -> bool:
        """Whether so many rounds suffice; a machine too busy for three within thrice the time has one."""
        if done >= LEAST_ROUNDS:
            return spent > self.seconds or self.is_over
        return done > 0 and (spent > 3 * self.seconds or self.is_over)

    def _turn(self, call: Callable[[], object]) -> float:
        for _ in range(self.warm):
            call()
        began, until, count = self.now(), time.perf_counter() + self.turn, 0
        burst = 1
        while not count or time.perf_counter() < until:
            for _ in range(burst):
                call()
            count += burst
            if self.device.type != "cpu":
                burst = max(1, int(LONGEST_QUEUE * count / (self.now() - began)))
        return (self.now() - began) / count


def process_peak() -> int | None:
    """Bytes that this process held at most, None where the system does not count them.

    getrusage would count what its parent held when it forked; psutil has no peak on Linux.
    """
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status", encoding="utf-8") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return None


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that `work` holds at its peak beyond what this process held before; None: not counted here.

    On CUDA those of the allocator. On a CPU only in a new process: memory that was freed before is used again
    and does not count.
    """
    if device.type == "cuda":
        gc.collect()  # what only a cycle holds would be freed meanwhile, and be missing in the difference
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = psutil.Process().memory_info().rss
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of the imports
    work()
    peak = process_peak()
    return None if peak is None else peak - before


def in_new_process(function: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Any:
    """The result of a function at the top of its module, called in a new process; all values are JSON's.

    Raises subprocess.CalledProcessError where it fails, subprocess.TimeoutExpired where it takes longer.
    """
    request = {
        "module": function.__module__, "function": function.__name__, "arguments": arguments,
        "plugins": plugins.handed(),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(request), capture_output=True, text=True,
        check=True, timeout=timeout,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """The new process: the request comes by standard input, the result is the last line of the output."""
    request = json.load(sys.stdin)
    plugins.take(request["plugins"])
    function = getattr(importlib.import_module(request["module"]), request["function"])
    print(json.dumps(function(*request["arguments"])))


if __name__ == "__main__":
    main()
