"""Calls are timed in turn, for as long as was said."""

from __future__ import annotations

import time

import pytest
import torch

from stockenh.commands.bench import clock as clock_module
from stockenh.commands.bench.clock import Clock

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "TURN_SECONDS", 0.0)  # one call a turn


def test_calls_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    taken = Clock(CPU, 9.0, rounds=3).in_turn(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    )
    assert "".join(order) == "ab" + "ab" * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_a_turn_can_begin_with_a_call_that_is_not_counted() -> None:
    pauses = iter([0.0, 0.1, 0.0])  # the warm-up of all, that of the turn, and what counts
    clock = Clock(CPU, 9.0, rounds=1, warm=1)
    (seconds,) = clock.in_turn({"a": lambda: sum(range(int(2e7 * next(pauses))))}).values()
    assert seconds[0] < 0.005


def test_a_turn_of_a_short_call_is_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "TURN_SECONDS", 0.05)
    calls = []
    (seconds,) = Clock(CPU, 9.0, rounds=1).in_turn({"a": lambda: calls.append(sum(range(1000)))}).values()
    assert len(calls) > 20
    assert seconds[0] * len(calls) < 0.2


@pytest.mark.parametrize(
    ("clock", "rounds"),
    [
        (Clock(CPU, 1e-6, rounds=9), 1),  # three rounds would take more than thrice that
        (Clock(CPU, 0.025, rounds=9), 3),  # at least three where there is time for them
        (Clock(CPU, 9.0, rounds=2), 2),
        (Clock(CPU, 9.0, rounds=9, until=0.0), 1),  # the benchmark's time is over
    ],
)
def test_rounds_end_with_the_time(clock: Clock, rounds: int) -> None:
    taken = clock.in_turn({"a": lambda: time.sleep(0.015)})
    assert len(taken["a"]) == rounds


def test_one_thread_on_a_processor_is_timed_without_its_neighbours() -> None:
    clock = Clock(CPU, 9.0, rounds=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert clock.kind == "processor time"
        assert clock.in_turn({"a": lambda: time.sleep(0.05)})["a"][0] < 0.04
        torch.set_num_threads(2)
        assert clock.kind == "wall time"
        assert clock.in_turn({"a": lambda: time.sleep(0.05)})["a"][0] >= 0.05
    finally:
        torch.set_num_threads(before)
