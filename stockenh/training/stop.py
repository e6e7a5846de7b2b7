"""How a run is stopped: signals and other reasons become a request, which the loop obeys after a step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# SIGUSR2 is what Slurm's launchers send before the time limit and before a job makes room for another.
PREEMPTION: int | None = getattr(signal, "SIGUSR2", None)
STOP_SIGNALS = tuple(s for s in (signal.SIGINT, signal.SIGTERM, PREEMPTION) if s is not None)
LOOK_SECONDS = 1.0  # between two looks for a stop that is no signal: a shared disk may be slow


class Interrupted(Exception):
    """A stop was requested, and the run has saved its state; signum: the signal, if it was one."""

    def __init__(self, signum: int | None = None) -> None:
        super().__init__()
        self.signum = signum

    def pass_on(self) -> None:
        """Sends a preemption to the handler that was there before training, which may requeue the job."""
        if self.signum is not None and self.signum == PREEMPTION and callable(signal.getsignal(PREEMPTION)):
            signal.raise_signal(PREEMPTION)


@dataclass
class StopRequest:
    """Whether a stop was requested: by a signal, or because `look` says so.

    signum: the signal, of several the one that may requeue the job
    """

    requested: bool = False
    look: Callable[[], bool] | None = None
    signum: int | None = None
    _looked: float = -math.inf

    def request(self, signum: int) -> None:
        self.requested = True
        if self.signum != PREEMPTION:
            self.signum = signum

    def is_due(self) -> bool:
        """Whether to stop after this step; it looks at most every second."""
        if not self.requested and self.look is not None:
            now = time.monotonic()
            if now - self._looked >= LOOK_SECONDS:
                self._looked, self.requested = now, self.look()
        return self.requested


@contextmanager
def stop_on_signal(grace: float = 0.0, look: Callable[[], bool] | None = None) -> Iterator[StopRequest]:
    """Turns SIGINT, SIGTERM and SIGUSR2 into a request; a second SIGINT or SIGTERM interrupts at once.

    grace: seconds within which a second one still counts as the first: torchrun passes a terminal's Ctrl-C
    on to processes that already got it from the terminal. look: another reason to stop, looked at about
    every second. Outside the main thread, which alone can catch signals, only that one counts.
    """
    stop = StopRequest(look=look)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    first: float | None = None

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        stop.request(signum)
        if signum == PREEMPTION:  # often beside a SIGTERM, and never a person's second try
            return
        if first is None:
            first = time.monotonic()
        elif time.monotonic() - first >= grace:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, note) for s in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
