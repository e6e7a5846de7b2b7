"""Sweepers as Hydra finds them, workers in processes of their own, and the view that shows them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

import psutil
import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from rich.console import Console
from waiting import LIMIT

from stockenh.commands.multirun import launch
from stockenh.commands.multirun.launch import MultirunWatch, time_left
from stockenh.commands.multirun.worker import _die_with


def test_hydra_lists_both_sweepers_and_not_their_base():
    names = [f"{found.__module__}.{found.__name__}" for found in Plugins.instance().discover(Sweeper)]
    assert sorted(name for name in names if "stockenh" in name) == [
        "hydra_plugins.stockenh.AblationSweeper",
        "hydra_plugins.stockenh.OptunaSweeper",
    ]


def test_to_be_listed_they_need_nothing_else_of_the_program():
    program = (
        "import sys, hydra_plugins.stockenh\n"
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] in ('stockenh', 'torch', 'optuna')))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == []


def _follow(pid: int, created: float, ready: Connection) -> None:
    """In another process: a worker with a child, which waits for its parent's death."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    _die_with(pid, created)
    ready.send(child.pid)
    ready.recv()


def test_a_worker_dies_with_its_parent_and_takes_its_children_along():
    here, there = multiprocessing.get_context("spawn").Pipe()
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(parent.pid).create_time()
    worker = multiprocessing.get_context("spawn").Process(target=_follow, args=(parent.pid, created, there))
    worker.start()
    child = psutil.Process(here.recv())
    assert worker.is_alive() and child.is_running()
    parent.communicate()
    worker.join()
    child.wait()
    assert worker.exitcode == 1 and not child.is_running()


def test_a_process_that_is_not_the_parent_is_not_followed():
    before = threading.active_count()
    _die_with(os.getpid(), psutil.Process().create_time())  # one worker is the command itself
    _die_with(os.getppid(), 0.0)  # on another machine, somebody else's process may have this id
    _die_with(2**22 + 1, 0.0)
    assert threading.active_count() == before


class Away(MultirunWatch):
    """Can't see anything at its first look."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.shown = 0
        self.twice = threading.Event()

    def show(self) -> None:
        self.shown += 1
        if self.shown == 1:
            raise OSError("the disk is away")
        self.twice.set()


def test_a_look_that_fails_is_followed_by_the_next_and_the_end_is_shown(monkeypatch):
    monkeypatch.setattr(launch, "REFRESH_SECONDS", 0.001)
    with Away(Console(quiet=True)) as one:
        assert one.twice.wait(LIMIT)
    monkeypatch.setattr(launch, "REFRESH_SECONDS", LIMIT)
    with (
        pytest.raises(OSError, match="the disk is away"),
        Away(Console(force_terminal=True, quiet=True)) as two,
    ):
        assert two.live is not None and two.live.is_started
    assert two.shown == 1 and not two.live.is_started


def test_the_time_left_is_in_minutes_or_seconds_and_never_below_none():
    assert [time_left(seconds) for seconds in (600.0, 91.0, 90.0, 3.4, -5.0)] == [
        "about 10 min left", "about 2 min left", "about 90 s left", "about 3 s left", "about 0 s left",
    ]  # fmt: skip
