"""What a person sees while an ablation goes on: a line per ended cell, and on a terminal one that moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stockenh.ablation.folder import FAILED, AblationFolder
from stockenh.ablation.plan import Cell

REFRESH_SECONDS = 1.0


class Watch:
    """Looks at the cells in a thread of its own, and tells how many are done and how long the rest takes."""

    def __init__(self, folder: AblationFolder, cells: Sequence[Cell], workers: int, out: Console) -> None:
        self.folder = folder
        self.cells = cells
        self.workers = workers
        self.out = out
        self._told = {cell.number for cell in cells if folder.state(cell)}
        self._before = len(self._told)
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._live: Live | None = None

    def __enter__(self) -> Watch:
        if self.out.is_terminal:
            self._live = Live(console=self.out, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
        self._show()

    def _look(self) -> None:
        while not self._over.wait(REFRESH_SECONDS):
            self._show()

    def _show(self) -> None:
        for cell in self.cells:
            if cell.number not in self._told and (state := self.folder.state(cell)):
                self._told.add(cell.number)
                what = f"failed: {state['why']}" if state["state"] == FAILED else f"{state['seconds']:,.0f} s"
                ended = f"[{len(self._told)}/{len(self.cells)}]"
                self.out.print(f"cell     {ended:>9}  {cell.path}  {what}", markup=False, soft_wrap=True)
        if self._live is not None:
            self._live.update(Text(self._progress()), refresh=True)

    def _progress(self) -> str:
        """`7 of 12 cells, 2 workers at ema/seed1, swa/seed1, about 4 min left`."""
        at = [c.path for c in self.cells if c.number not in self._told and self.folder.is_claimed(c)]
        ended = len(self._told)
        said = f"{ended} of {len(self.cells)} cells, at {', '.join(at) or 'nothing yet'}"
        left = seconds_left(ended - self._before, len(self.cells) - ended, time.monotonic() - self._began)
        if left is None:
            return said
        return f"{said}, about {left / 60:.0f} min left" if left > 90 else f"{said}, about {left:.0f} s left"


def seconds_left(ended: int, left: int, passed: float) -> float | None:
    """What the rest takes at the pace so far; None before a cell has ended."""
    return passed / ended * left if ended else None
