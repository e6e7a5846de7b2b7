"""`stockenh export`: a finished run's model as files."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh.commands.finished import based_on_run, trained
from stockenh.commands.job import run_job
from stockenh.config import compose
from stockenh.config.schema import parse
from stockenh.storage.run_folder import RunFolder


def export(arguments: list[str]) -> None:
    """Leaves the files in RUN/export, or where hydra.run.dir says."""
    based = based_on_run(arguments, "the export takes", lambda run: [f"hydra.run.dir={run.exported}"])
    compose.run(export_composed, based)


def export_composed(cfg: DictConfig) -> None:
    """One job of `export`."""
    run_job(cfg, _export)


def _export(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.commands.export.export import export_run
    from stockenh.report.terminal import console

    run = trained(raw)
    export_run(parse(raw), run, into.path, console())
