"""`stockenh export`: a finished run's model as files."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.config import parse
from stockenh.runfolder import RunFolder
from stockenh.tasks.finished import based_on_run, trained
from stockenh.tasks.job import run_job


def export(arguments: list[str]) -> None:
    """Leaves the files in RUN/export, or where hydra.run.dir says."""
    based = based_on_run(arguments, "the export takes", lambda run: [f"hydra.run.dir={run.exported}"])
    compose.run(export_composed, based)


def export_composed(cfg: DictConfig) -> None:
    """One job of `export`."""
    run_job(cfg, _export)


def _export(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.run.export import export_run
    from stockenh.terminal import console

    run = trained(raw)
    export_run(parse(raw), run, into.path, console())
