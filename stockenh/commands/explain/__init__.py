"""`stockenh explain`: what a finished run's forecasts come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockenh.commands.finished import config_for, require_own_folder, run_on_finished
from stockenh.config.schema import ExplainRunConfig
from stockenh.storage.run_folder import RunFolder


def explain(arguments: list[str]) -> None:
    """Leaves tables and pictures in RUN/explain, or where hydra.run.dir says."""
    run_on_finished("explain", _explain, arguments, lambda run: run.explained)


def _explain(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.explain.attributions import explain_run
    from stockenh.commands.trained import Trained
    from stockenh.report.terminal import console

    require_own_folder(folder, "the explanation")
    run = Trained.open(RunFolder.open(Path(raw["run"])), raw["weights"])
    explain_run(config_for(raw, run.run, ExplainRunConfig), run, folder.path, console())
