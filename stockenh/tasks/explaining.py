"""`stockenh explain`: what a finished run's forecasts come from."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.config import parse
from stockenh.runfolder import RunFolder
from stockenh.tasks.finished import based_on_run, trained
from stockenh.tasks.job import run_job


def explain(arguments: list[str]) -> None:
    """Leaves tables and pictures in RUN/explain, or where hydra.run.dir says."""
    based = based_on_run(arguments, "the explanation takes", lambda run: [f"hydra.run.dir={run.explained}"])
    compose.run(explain_composed, based)


def explain_composed(cfg: DictConfig) -> None:
    """One job of `explain`."""
    run_job(cfg, _explain)


def _explain(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.run.explain import explain_run
    from stockenh.terminal import console

    run = trained(raw)
    explain_run(parse(raw), run, into.path, console())
