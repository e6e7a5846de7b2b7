"""`stockenh explain`: what a finished run's forecasts come from."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh.commands.finished import based_on_run, trained
from stockenh.commands.job import run_job
from stockenh.config import compose
from stockenh.config.schema import parse
from stockenh.storage.run_folder import RunFolder


def explain(arguments: list[str]) -> None:
    """Leaves tables and pictures in RUN/explain, or where hydra.run.dir says."""
    based = based_on_run(arguments, "the explanation takes", lambda run: [f"hydra.run.dir={run.explained}"])
    compose.run(explain_composed, based)


def explain_composed(cfg: DictConfig) -> None:
    """One job of `explain`."""
    run_job(cfg, _explain)


def _explain(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.commands.explain.explain import explain_run
    from stockenh.report.terminal import console

    run = trained(raw)
    explain_run(parse(raw), run, into.path, console())
