"""Waiting for an event; a busy machine only takes longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

LIMIT = 900.0  # seconds: ends a test that hangs, and is never what a test measures


class Running(Protocol):
    """A process as subprocess.Popen and processes.Process have it."""

    def poll(self) -> int | None: ...
    def communicate(self) -> tuple[Any, Any]: ...


def wait_for(condition: Callable[[], object], *processes: Running) -> None:
    """Returns once the condition holds; fails with a process's output if that ends before."""
    end = time.monotonic() + LIMIT
    while True:
        ended = [process for process in processes if process.poll() is not None]
        if condition():
            return
        assert not ended, ended[0].communicate()
        assert time.monotonic() < end, "this took too long even for a busy machine"
        time.sleep(0.01)
