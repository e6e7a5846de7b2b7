"""An ablation from Hydra's multirun to its table: checked, run by workers, reported."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from stockenh.commands.ablate.cells import FAILED, AblationFolder
from stockenh.commands.ablate.conclude import conclude
from stockenh.commands.ablate.plan import PLAIN, Cell
from stockenh.commands.ablate.spec import AblationSpec
from stockenh.commands.multirun.kept import given_again
from stockenh.commands.multirun.launch import MultirunWatch, launch, show_line, time_left
from stockenh.commands.multirun.worker import Worker
from stockenh.errors import StockenhError, counted
from stockenh.report import terminal
from stockenh.storage.untrusted import is_file


def ablate(context: HydraContext, config: DictConfig, task: TaskFunction, arguments: Sequence[str]) -> int:
    """Runs an ablation to its table; returns how many cells are done.

    Raises ConfigError for what can't be compared, StockenhError where cells failed (their table is there
    all the same), and KeyboardInterrupt after a stop; the same folder can then be resumed.
    """
    console = terminal.console()
    spec = AblationSpec.of(context, config, arguments)
    with spec.folder.lock():
        _begin(spec, console)
        cells, folder = spec.plan.cells, spec.folder
        worker = Worker(context, config, task, spec, [], folder.workers)
        with Watch(folder, cells, console):
            launch(worker, min(spec.settings.n_workers, len(cells)), spec.arguments, spec)
        return _end(spec, console)


def _begin(spec: AblationSpec, console: Console) -> None:
    """Prints what starts or is resumed, and records how to resume it."""
    folder, cells = spec.folder, spec.plan.cells
    about = folder.read() if is_file(folder.about) else {}
    if about:
        spec.require_same(about)
    recipes = {**about.get("recipes", {}), **spec.recipes}
    folder.begin(spec.config, {"base": spec.fingerprint, "recipes": recipes})
    earlier = sum(folder.lacks_forecasts(cell) for cell in cells if cell.recipe is not None)
    for cell in cells:
        folder.reopen(cell)
    size = f"{counted(len(spec.plan.recipes), 'recipe')} x {counted(len(spec.plan.seeds), 'seed')}"
    done = f"{spec.count_ended()} of {counted(len(cells), 'cell')} done"
    show_line(console, "resumed" if about else "ablation", f"{folder.path}: {size}, {done}")
    if earlier:
        console.print(
            f"         an earlier version made {earlier} of the cells, without forecasts of the test part: "
            f"these are made now, without training"
        )
    if len(spec.plan.seeds) == 1:
        console.print(
            "         one seed gives intervals over dates only and no verdict: ablate.seeds=[1,2,3] for three"
        )


def _end(spec: AblationSpec, console: Console) -> int:
    """Reports the result. Raises StockenhError where cells failed or are left."""
    cells, folder = spec.plan.cells, spec.folder
    states = {cell: folder.state(cell) for cell in cells}
    failed = [cell for cell, state in states.items() if state.get("state") == FAILED]
    left = [cell for cell, state in states.items() if not state]
    if any(c.recipe and c.recipe.name == PLAIN and states[c] and c not in failed for c in cells):
        conclude(spec, console)
    again = folder.resume_command(given_again(spec.config))
    if failed:
        first = failed[0]
        raise StockenhError(
            f"{len(failed)} of {len(cells)} cells failed; {first.path}: {states[first]['why']} "
            f"(try them again: {again})"
        )
    if left:
        raise StockenhError(f"{len(left)} of {len(cells)} cells are left: {again}")
    return len(cells)


class Watch(MultirunWatch):
    """Prints a line per ended cell, and on a terminal how many are done and how long the rest takes."""

    def __init__(self, folder: AblationFolder, cells: Sequence[Cell], console: Console) -> None:
        super().__init__(console)
        self.folder = folder
        self.cells = cells
        self._printed = {cell.number for cell in cells if folder.state(cell)}
        self._before = len(self._printed)
        self._began = time.monotonic()

    def show(self) -> None:
        for cell in self.cells:
            if cell.number not in self._printed and (state := self.folder.state(cell)):
                self._printed.add(cell.number)
                what = f"failed: {state['why']}" if state["state"] == FAILED else f"{state['seconds']:,.0f} s"
                ended = f"[{len(self._printed)}/{len(self.cells)}]"
                show_line(self.console, "cell", f"{ended:>9}  {cell.path}  {what}")
        if self.live is not None:
            self.live.update(Text(self._progress()), refresh=True)

    def _progress(self) -> str:
        """`7 of 12 cells, at ema/seed1, swa/seed1, about 4 min left`."""
        running = [c.path for c in self.cells if c.number not in self._printed and self.folder.is_claimed(c)]
        ended, total = len(self._printed), len(self.cells)
        text = f"{ended} of {total} cells, at {', '.join(running) or 'nothing yet'}"
        if ended == self._before:
            return text
        pace = (time.monotonic() - self._began) / (ended - self._before)
        return f"{text}, {time_left(pace * (total - ended))}"
