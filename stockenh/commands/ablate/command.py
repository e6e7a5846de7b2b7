"""`stockenh ablate`: a multirun of train whose sweeper runs a fixed list of recipes."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh.commands.ablate.cells import AblationFolder
from stockenh.commands.job import exit_with, refuse_run, run_job
from stockenh.commands.multirun.resume import (
    is_resumed,
    new_arguments,
    parts_of,
    resume_arguments,
    stop_message,
)
from stockenh.commands.multirun.worker import current
from stockenh.commands.train.command import INTERRUPTED, train_assigned
from stockenh.config import compose
from stockenh.config.schema import parse
from stockenh.errors import ConfigError
from stockenh.storage.run_folder import RunFolder

DEFAULT = "ablate=quick"
# What may be other when an ablation goes on; more seeds and other techniques are more cells.
RESUME_KEYS = ("ablate.seeds", "ablate.n_workers", "ablate.only", "ablate.rounds", "device", "threads")
JUDGED = ("val", "test")


def ablate(arguments: list[str]) -> None:
    """A new ablation, or with resume=DIR one that was stopped or is to have more seeds."""
    if is_resumed(arguments):
        arguments = resume_arguments(arguments, AblationFolder, RESUME_KEYS)
    else:
        named = any(key == "ablate" for key, _ in map(parts_of, arguments))
        arguments = new_arguments(arguments, [] if named else [DEFAULT])
    try:
        compose.run(ablate_composed, arguments)
    except KeyboardInterrupt:
        exit_with(stop_message(arguments, AblationFolder, "cells"), INTERRUPTED)


def ablate_composed(cfg: DictConfig) -> None:
    """One cell: what a worker calls with the composed config."""
    run_job(cfg, _cell)


def _cell(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.ablate.cells import CellAssignment
    from stockenh.commands.ablate.perform import costs, search, with_views
    from stockenh.config import build

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
