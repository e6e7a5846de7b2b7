"""`stockenh ablate`: a multirun of train whose sweeper runs a fixed list of recipes."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.ablation.folder import AblationFolder
from stockenh.config import parse
from stockenh.errors import ConfigError
from stockenh.multirun.assignment import current
from stockenh.multirun.command import parts_of
from stockenh.runfolder import RunFolder
from stockenh.tasks.job import exit_with, refuse_run, run_job
from stockenh.tasks.multirun import begun, is_taken_up, stopped, taken_up
from stockenh.tasks.training import INTERRUPTED, train_assigned

DEFAULT = "ablate=quick"
# What may be other when an ablation goes on; more seeds and other techniques are more cells.
RESUME_KEYS = ("ablate.seeds", "ablate.n_workers", "ablate.only", "ablate.rounds", "device", "threads")
JUDGED = ("val", "test")


def ablate(arguments: list[str]) -> None:
    """A new ablation, or with resume=DIR one that was stopped or is to have more seeds."""
    if is_taken_up(arguments):
        arguments = taken_up(arguments, AblationFolder, RESUME_KEYS)
    else:
        named = any(key == "ablate" for key, _ in map(parts_of, arguments))
        arguments = begun(arguments, [] if named else [DEFAULT])
    try:
        compose.run(ablate_composed, arguments)
    except KeyboardInterrupt:
        exit_with(stopped(arguments, AblationFolder, "cells"), INTERRUPTED)


def ablate_composed(cfg: DictConfig) -> None:
    """One cell: what a worker calls with the composed config."""
    run_job(cfg, _cell)


def _cell(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh import build
    from stockenh.ablation.perform import costs, search, with_views
    from stockenh.ablation.source import CellAssignment

    assignment = current()
    if not isinstance(assignment, CellAssignment):
        raise ConfigError("hydra/sweeper must be stockenh_ablate: leave it to stockenh ablate")
    refuse_run(raw)
    config, cell, source = parse(raw), assignment.cell, assignment.source
    on = build.device(config.device)
    if cell.recipe is None:
        assignment.end(costs(config, source, on))
    elif cell.recipe.kind == "search":
        assignment.end(search(cell, source, folder.path))
    else:
        train_assigned(folder, config, assignment, JUDGED)
        if assignment.stopped:
            return
        viewed = cell.recipe.name in source.plan.viewed
        assignment.end({"views": with_views(folder, on) if viewed else None})
