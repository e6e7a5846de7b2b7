"""`stockenh tta-predict`: forecasts with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.config import config_of, parse
from stockenh.overrides import split_override
from stockenh.runfolder import RunFolder
from stockenh.tasks.job import finished_run, refuse_old_folder, run_job


def tta_predict(arguments: list[str]) -> None:
    """Forecasts of a finished run, in a folder of their own."""
    given = [parts for a in arguments if (parts := split_override(a))]
    refuse_old_folder(given, "the forecast takes")
    folder = finished_run(arguments)
    compose.run(tta_predict_composed, compose.based_on(config_of(folder).raw, arguments))


def tta_predict_composed(cfg: DictConfig) -> None:
    """One job of `tta_predict`."""
    run_job(cfg, _tta_predict)


def _tta_predict(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.run.forecast import forecast_run
    from stockenh.run.trained import Trained
    from stockenh.terminal import console

    trained = Trained.open(RunFolder.open(Path(raw["run"])), raw["weights"])
    forecast_run(parse(raw), trained, into.path, console())
