"""What the terminal shows during a multirun: a live view, or lines where output is piped."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Self

from rich.console import Console
from rich.live import Live

REFRESH_SECONDS = 1.0


class MultirunWatch(ABC):
    """Looks at a multirun repeatedly, in a thread of its own, for as long as it is entered.

    live: the live view, where the console is a terminal
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    @abstractmethod
    def show(self) -> None:
        """Shows the current state; called once more at the end."""

    def look(self) -> None:
        """What is done at every refresh."""
        self.show()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            self.show()
        finally:
            if self.live is not None:
                self.live.stop()

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH_SECONDS):
            with suppress(Exception):  # a database or disk that is away for a moment is back at the next look
                self.look()


def time_left(seconds: float) -> str:
    """`about 4 min left`."""
    return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {max(seconds, 0):.0f} s left"
