"""An ablation from Hydra's multirun to its table: checked, run by workers, told."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from stockenh.commands.ablate.folder import FAILED
from stockenh.commands.ablate.plan import PLAIN
from stockenh.commands.ablate.report import conclude
from stockenh.commands.ablate.spec import Ablation
from stockenh.commands.ablate.watch import Watch
from stockenh.commands.multirun.command import kept_arguments
from stockenh.commands.multirun.pool import launch
from stockenh.commands.multirun.worker import Worker
from stockenh.errors import StockenhError
from stockenh.report.terminal import console
from stockenh.storage.files import WorkerLock


def ablate(context: HydraContext, config: DictConfig, task: TaskFunction, arguments: Sequence[str]) -> int:
    """Runs an ablation to its table; returns how many cells are done.

    Raises ConfigError for what can't be compared, StockenhError where cells failed (their table is there
    all the same), and KeyboardInterrupt after a stop; the same folder then goes on with it.
    """
    out = console()
    asked = Ablation.of(context, config, task, arguments)
    with asked.folder.lock():
        _begin(asked, out)
        boss = WorkerLock(asked.folder.workers)
        try:
            _work(asked, boss.id + ".lock", out)
        finally:
            boss.release()
        return _end(asked, out)


def _begin(asked: Ablation, out: Console) -> None:
    """Says what begins or goes on, and writes down how to go on with it."""
    folder = asked.folder
    about = folder.read() if folder.about.exists() else {}
    if about:
        asked.require_same(about)
    OmegaConf.save(asked.config, folder.path / "multirun.yaml")
    folder.write(
        {
            "arguments": kept_arguments(asked.config),
            "base": asked.made_of,
            "recipes": {**about.get("recipes", {}), **asked.recipes},
        }
    )
    cells = asked.plan.cells
    for cell in cells:
        folder.reopen(cell)
    ended = sum(bool(folder.state(cell)) for cell in cells)
    doing = "resumed" if about else "ablation"
    out.print(
        f"{doing:<8} {folder.path}: {len(asked.plan.recipes)} recipes x {len(asked.plan.seeds)} seeds, "
        f"{ended} of {len(cells)} cells done",
        soft_wrap=True,
        markup=False,
    )
    if len(asked.plan.seeds) == 1:
        out.print("         one seed gives no interval, so no verdict: ablate.seeds=[1,2,3] for three")


def _work(asked: Ablation, boss: str, out: Console) -> None:
    cells, folder = asked.plan.cells, asked.folder

    def ended() -> int:
        return sum(bool(folder.state(cell)) for cell in cells)

    def remain() -> bool:
        return any(not folder.state(cell) and not folder.is_claimed(cell) for cell in cells)

    worker = Worker(asked.context, asked.config, asked.task, asked.source(), [], folder.workers, boss)
    size = min(asked.settings.n_workers, len(cells))
    with Watch(folder, cells, out):
        launch(worker, size, asked.arguments, ended, remain)


def _end(asked: Ablation, out: Console) -> int:
    """Tells what came of it. Raises StockenhError where cells failed or are left."""
    cells, folder = asked.plan.cells, asked.folder
    states = {cell: folder.state(cell) for cell in cells}
    failed = [cell for cell, state in states.items() if state.get("state") == FAILED]
    left = [cell for cell, state in states.items() if not state]
    plain = [c for c in cells if c.recipe and c.recipe.name == PLAIN and states[c] and c not in failed]
    if plain:
        conclude(asked, out)
    again = folder.resume_command(asked.flags)
    if failed:
        first = failed[0]
        raise StockenhError(
            f"{len(failed)} of {len(cells)} cells failed; {first.path}: {states[first]['why']} "
            f"(try them again: {again})"
        )
    if left:
        raise StockenhError(f"{len(left)} of {len(cells)} cells are left: {again}")
    return len(cells)
