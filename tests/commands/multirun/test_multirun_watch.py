"""The loop that shows a multirun while it goes on."""

from __future__ import annotations

import threading

import pytest
from rich.console import Console
from waiting import LIMIT

from stockenh.commands.multirun import watch
from stockenh.commands.multirun.watch import MultirunWatch, time_left


class Away(MultirunWatch):
    """Can't see anything at its first look."""

    def __init__(self, out: Console) -> None:
        super().__init__(out)
        self.shown = 0
        self.twice = threading.Event()

    def show(self) -> None:
        self.shown += 1
        if self.shown == 1:
            raise OSError("the disk is away")
        self.twice.set()


def test_a_look_that_fails_is_followed_by_the_next_and_the_end_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0.001)
    with Away(Console(quiet=True)) as one:
        assert one.twice.wait(LIMIT)
    monkeypatch.setattr(watch, "REFRESH_SECONDS", LIMIT)
    with (
        pytest.raises(OSError, match="the disk is away"),
        Away(Console(force_terminal=True, quiet=True)) as two,
    ):
        assert two.live is not None and two.live.is_started
    assert two.shown == 1 and not two.live.is_started


def test_the_time_left_is_told_in_minutes_or_seconds_and_never_below_none() -> None:
    assert [time_left(seconds) for seconds in (600.0, 91.0, 90.0, 3.4, -5.0)] == [
        "about 10 min left", "about 2 min left", "about 90 s left", "about 3 s left", "about 0 s left",
    ]  # fmt: skip
