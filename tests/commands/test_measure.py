"""Calls timed in turn, and the memory of new processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from stockenh.commands.measure import Clock, in_new_process, peak_memory, process_peak

CPU = torch.device("cpu")


def once(seconds: float = 9.0, rounds: int = 15, **settings: float) -> Clock:
    """A clock with one call a turn."""
    return Clock(CPU, seconds, rounds, **{"turn": 0.0, **settings})


def test_calls_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    taken = once(rounds=3).in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert "".join(order) == "ab" + "ab" * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_a_turn_can_begin_with_a_call_that_is_not_counted() -> None:
    pauses = iter([0.0, 0.1, 0.0])  # the warm-up of all, that of the turn, and what counts
    taken = once(rounds=1, warm=1).medians({"a": lambda: sum(range(int(2e7 * next(pauses))))})
    assert taken["a"] < 0.005


def test_a_turn_of_a_short_call_is_its_mean() -> None:
    calls = []
    (seconds,) = once(rounds=1, turn=0.05).in_turn({"a": lambda: calls.append(sum(range(1000)))}).values()
    assert len(calls) > 20
    assert seconds[0] * len(calls) < 0.2


@pytest.mark.parametrize(
    ("clock", "rounds"),
    [
        (once(1e-6, rounds=9), 1),  # three rounds would take more than thrice that
        (once(0.025, rounds=9), 3),  # at least three where there is time for them
        (once(rounds=2), 2),
        (once(rounds=9, until=0.0), 1),  # the benchmark's time is over
    ],
)
def test_rounds_end_with_the_time(clock: Clock, rounds: int) -> None:
    taken = clock.in_turn({"a": lambda: time.sleep(0.015)})
    assert len(taken["a"]) == rounds


def test_one_thread_on_a_cpu_is_timed_without_its_neighbours() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert once().kind == "processor time"
        assert once(rounds=1).medians({"a": lambda: time.sleep(0.05)})["a"] < 0.04
        torch.set_num_threads(2)
        assert once().kind == "wall time"
        assert once(rounds=1).medians({"a": lambda: time.sleep(0.05)})["a"] >= 0.05
    finally:
        torch.set_num_threads(before)


def test_memory_that_is_held_for_a_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    if process_peak() is None:
        pytest.skip("this system does not count the peak memory of a process")
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    found = in_new_process(memory_of, 2**26)
    assert found == pytest.approx(2**26, rel=0.1)


def memory_of(size: int) -> int | None:
    """In the new process: bytes at the peak, of which nothing is left at the end."""
    return peak_memory(lambda: bytes(bytearray(b"1") * (size // 2)), CPU)
