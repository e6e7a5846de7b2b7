"""Calls are timed in turn, for as long as was said."""

from __future__ import annotations

import pytest
import torch

from stockenh.commands.bench import clock as clock_module
from stockenh.commands.bench.clock import Clock

CPU = torch.device("cpu")


class Time:
    """The module `time` for the clock: it passes only where a test says so."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0
        self.perf_counter, self.process_time = lambda: self.wall, lambda: self.processor

    def work(self, seconds: float) -> None:
        self.wall += seconds
        self.processor += seconds


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    monkeypatch.setattr(clock_module, "TURN_SECONDS", 0.0)  # one call a turn
    monkeypatch.setattr(clock_module, "time", made := Time())
    return made


def test_calls_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    taken = Clock(CPU, 9.0, rounds=3).in_turn(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    )
    assert "".join(order) == "ab" + "ab" * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_a_turn_can_begin_with_a_call_that_is_not_counted(time: Time) -> None:
    seconds = iter([0.0, 9.0, 0.5])  # the warm-up of all, that of the turn, and what counts
    taken = Clock(CPU, 9.0, rounds=1, warm=1).in_turn({"a": lambda: time.work(next(seconds))})
    assert taken["a"].tolist() == [0.5]


def test_a_turn_of_a_short_call_is_its_mean(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "TURN_SECONDS", 4.0)
    seconds = iter([0.0, 1.0, 2.0, 3.0])
    assert Clock(CPU, 9.0, rounds=1).in_turn({"a": lambda: time.work(next(seconds))})["a"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("clock", "rounds"),
    [
        (Clock(CPU, 1e-6, rounds=9), 1),  # three rounds would take more than thrice that
        (Clock(CPU, 0.025, rounds=9), 3),  # at least three where there is time for them
        (Clock(CPU, 9.0, rounds=2), 2),
        (Clock(CPU, 9.0, rounds=9, until=0.0), 1),  # the benchmark's time is over
    ],
)
def test_rounds_end_with_the_time(clock: Clock, rounds: int, time: Time) -> None:
    time.work(1.0)
    taken = clock.in_turn({"a": lambda: time.work(0.015)})
    assert len(taken["a"]) == rounds


@pytest.mark.parametrize(
    ("threads", "kind", "seconds"), [(1, "processor time", 0.25), (2, "wall time", 2.25)]
)
def test_one_thread_on_a_processor_is_timed_without_its_neighbours(
    threads: int, kind: str, seconds: float, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call() -> None:
        time.work(0.25)
        time.wall += 2.0  # a neighbour has the core

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    clock = Clock(CPU, 9.0, rounds=1)
    assert clock.kind == kind
    assert clock.in_turn({"a": call})["a"].tolist() == [seconds]
