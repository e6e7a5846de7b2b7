"""What a person sees while an ablation goes on: a line per ended cell, and on a terminal one that moves."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from stockenh.commands.ablate.folder import FAILED, AblationFolder
from stockenh.commands.ablate.plan import Cell
from stockenh.commands.multirun.watch import MultirunWatch, time_left


class Watch(MultirunWatch):
    """Tells which cells ended, how many are done and how long the rest takes."""

    def __init__(self, folder: AblationFolder, cells: Sequence[Cell], out: Console) -> None:
        super().__init__(out)
        self.folder = folder
        self.cells = cells
        self._told = {cell.number for cell in cells if folder.state(cell)}
        self._before = len(self._told)
        self._began = time.monotonic()

    def show(self) -> None:
        for cell in self.cells:
            if cell.number not in self._told and (state := self.folder.state(cell)):
                self._told.add(cell.number)
                what = f"failed: {state['why']}" if state["state"] == FAILED else f"{state['seconds']:,.0f} s"
                ended = f"[{len(self._told)}/{len(self.cells)}]"
                self.out.print(f"cell     {ended:>9}  {cell.path}  {what}", markup=False, soft_wrap=True)
        if self.live is not None:
            self.live.update(Text(self._progress()), refresh=True)

    def _progress(self) -> str:
        """`7 of 12 cells, at ema/seed1, swa/seed1, about 4 min left`."""
        at = [c.path for c in self.cells if c.number not in self._told and self.folder.is_claimed(c)]
        ended = len(self._told)
        said = f"{ended} of {len(self.cells)} cells, at {', '.join(at) or 'nothing yet'}"
        left = seconds_left(ended - self._before, len(self.cells) - ended, time.monotonic() - self._began)
        return said if left is None else f"{said}, {time_left(left)}"


def seconds_left(ended: int, left: int, passed: float) -> float | None:
    """What the rest takes at the pace so far; None before a cell has ended."""
    return passed / ended * left if ended else None
