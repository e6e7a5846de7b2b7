"""`stockenh tta-predict`: forecasts with a finished run."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.config import parse
from stockenh.runfolder import RunFolder
from stockenh.tasks.finished import based_on_run, trained
from stockenh.tasks.job import run_job


def tta_predict(arguments: list[str]) -> None:
    """Forecasts of a finished run, in a folder of their own."""
    compose.run(tta_predict_composed, based_on_run(arguments, "the forecast takes"))


def tta_predict_composed(cfg: DictConfig) -> None:
    """One job of `tta_predict`."""
    run_job(cfg, _tta_predict)


def _tta_predict(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.run.forecast import forecast_run
    from stockenh.terminal import console

    run = trained(raw)
    forecast_run(parse(raw), run, into.path, console())
