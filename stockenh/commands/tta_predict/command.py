"""`stockenh tta-predict`: forecasts with a finished run."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh.commands.finished import based_on_run, trained
from stockenh.commands.job import run_job
from stockenh.config import compose
from stockenh.config.schema import parse
from stockenh.storage.run_folder import RunFolder


def tta_predict(arguments: list[str]) -> None:
    """Forecasts of a finished run, in a folder of their own."""
    compose.run(tta_predict_composed, based_on_run(arguments, "the forecast takes"))


def tta_predict_composed(cfg: DictConfig) -> None:
    """One job of `tta_predict`."""
    run_job(cfg, _tta_predict)


def _tta_predict(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.commands.tta_predict.forecast import forecast_run
    from stockenh.report.terminal import console

    run = trained(raw)
    forecast_run(parse(raw), run, into.path, console())
