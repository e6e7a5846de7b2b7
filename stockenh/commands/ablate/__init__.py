"""`stockenh ablate`: a multirun of train whose sweeper runs a fixed list of recipes."""

from __future__ import annotations

from typing import Any

from stockenh.commands.ablate.cells import AblationFolder
from stockenh.commands.ablate.plan import AblateSettings
from stockenh.commands.multirun import start_or_resume
from stockenh.commands.multirun.worker import current
from stockenh.commands.train import train_assigned
from stockenh.config import compose
from stockenh.config.schema import RunConfig, check_values, parse
from stockenh.errors import ConfigError
from stockenh.storage.run_folder import RunFolder

# What may change when an ablation is resumed; more seeds and other techniques are more cells.
RESUME_KEYS = ("ablate.seeds", "ablate.n_workers", "ablate.only", "ablate.rounds", "device", "threads")
JUDGED = ("val", "test")


def ablate(arguments: list[str]) -> None:
    """A new ablation, or with resume=DIR one that was stopped or is to have more seeds."""
    check_values(arguments, RunConfig, ablate=AblateSettings)
    start_or_resume(
        arguments, AblationFolder, RESUME_KEYS, "cells", lambda given: compose.run("ablate", cell_job, given)
    )


def cell_job(raw: dict[str, Any], folder: RunFolder) -> None:
    """One cell: what a worker calls with the composed config."""
    from stockenh.commands.ablate.forecasts import forecast_test_part
    from stockenh.commands.ablate.perform import costs, search
    from stockenh.commands.ablate.spec import CellAssignment
    from stockenh.config import build

    assignment = current()
    if not isinstance(assignment, CellAssignment):
        raise ConfigError("hydra/sweeper must be stockenh_ablate: leave it to stockenh ablate")
    config, cell, spec = parse(raw), assignment.cell, assignment.spec
    device = build.device(config.device)
    if cell.recipe is None:
        assignment.end(costs(config, spec, device))
        return
    if cell.recipe.kind == "search":
        run, figures = search(cell, spec, folder.path)
    else:
        train_assigned(folder, config, assignment, JUDGED)
        if assignment.stopped:
            return
        run, figures = folder, {}
    tensors = forecast_test_part(run, device, config.cache_dir, cell.viewed)
    folder.write_tensors(spec.folder.forecasts(cell), tensors)
    assignment.end({**figures, "views": cell.viewed, "weights": run.read_summary()["weights"]})
