"""`stockenh export`: a finished run's model as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockenh.commands.finished import config_for, require_own_folder, run_on_finished
from stockenh.config.schema import ExportRunConfig
from stockenh.storage.run_folder import RunFolder


def export(arguments: list[str]) -> None:
    """Leaves the files in RUN/export, or where hydra.run.dir says."""
    run_on_finished("export", _export, arguments, lambda run: run.exported)


def _export(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.export.files import export_run
    from stockenh.commands.trained import Trained
    from stockenh.report.terminal import console

    require_own_folder(folder, "the export")
    run = Trained.open(RunFolder.open(Path(raw["run"])), raw["weights"])
    export_run(config_for(raw, run.run, ExportRunConfig), run, folder.path, console())
