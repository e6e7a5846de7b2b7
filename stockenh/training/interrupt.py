"""Ctrl-C and SIGTERM as a request that the loop honours after the step at hand."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop, and has saved where it was."""


@dataclass
class StopRequest:
    """Whether somebody asked to stop."""

    requested: bool = False


@contextmanager
def stop_on_signal(grace: float = 0.0) -> Iterator[StopRequest]:
    """Within, the first SIGINT or SIGTERM is only noted; a second one interrupts at once.

    grace: seconds within which a second one is still the first: torchrun passes a terminal's Ctrl-C on to
    processes that have had it from the terminal. Outside the main thread signals can't be caught, and
    nothing is done.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    first = 0.0

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if not stop.requested:
            stop.requested, first = True, time.monotonic()
        elif time.monotonic() - first >= grace:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
