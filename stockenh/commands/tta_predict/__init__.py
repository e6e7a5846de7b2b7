"""`stockenh tta-predict`: forecasts with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockenh.commands.finished import config_for, require_own_folder, run_on_finished
from stockenh.config.schema import TtaPredictConfig
from stockenh.storage.run_folder import RunFolder


def tta_predict(arguments: list[str]) -> None:
    """Forecasts of a finished run, in a folder of their own."""
    run_on_finished("tta_predict", _tta_predict, arguments)


def _tta_predict(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.trained import Trained
    from stockenh.commands.tta_predict.forecast import forecast_run
    from stockenh.report.terminal import console

    require_own_folder(folder, "the forecast")
    run = Trained.open(RunFolder.open(Path(raw["run"])), raw["weights"])
    forecast_run(config_for(raw, run.run, TtaPredictConfig), run, folder.path, console())
