"""Timing several calls in turn, so that a busy neighbour is as bad for one as for the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int = 5, seconds: float = 0.05
) -> dict[str, float]:
    """Median wall-clock seconds of each call, all of them taken in every round for so long at least.

    A call on a GPU must wait for it.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            until = time.perf_counter() + seconds
            while (began := time.perf_counter()) < until:
                call()
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}
