"""`stockenh export`: a finished run's model as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.config import config_of, parse
from stockenh.overrides import split_override
from stockenh.runfolder import RunFolder
from stockenh.tasks.job import finished_run, refuse_old_folder, run_job


def export(arguments: list[str]) -> None:
    """Leaves the files in RUN/export, or where hydra.run.dir says."""
    given = dict(parts for a in arguments if (parts := split_override(a)))
    refuse_old_folder(list(given.items()), "the export takes")
    folder = finished_run(arguments)
    into = [] if "hydra.run.dir" in given else [f"hydra.run.dir={folder.exported}"]
    compose.run(export_composed, compose.based_on(config_of(folder).raw, [*into, *arguments]))


def export_composed(cfg: DictConfig) -> None:
    """One job of `export`."""
    run_job(cfg, _export)


def _export(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.run.export import export_run
    from stockenh.run.trained import Trained
    from stockenh.terminal import console

    trained = Trained.open(RunFolder.open(Path(raw["run"])), raw["weights"])
    export_run(parse(raw), trained, into.path, console())
