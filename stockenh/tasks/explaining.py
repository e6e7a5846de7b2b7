"""`stockenh explain`: what a finished run's forecasts come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.config import config_of, parse
from stockenh.overrides import split_override
from stockenh.runfolder import RunFolder
from stockenh.tasks.job import finished_run, refuse_old_folder, run_job


def explain(arguments: list[str]) -> None:
    """Leaves tables and pictures in RUN/explain, or where hydra.run.dir says."""
    given = dict(parts for a in arguments if (parts := split_override(a)))
    refuse_old_folder(list(given.items()), "the explanation takes")
    folder = finished_run(arguments)
    into = [] if "hydra.run.dir" in given else [f"hydra.run.dir={folder.explained}"]
    compose.run(explain_composed, compose.based_on(config_of(folder).raw, [*into, *arguments]))


def explain_composed(cfg: DictConfig) -> None:
    """One job of `explain`."""
    run_job(cfg, _explain)


def _explain(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.run.explain import explain_run
    from stockenh.run.trained import Trained
    from stockenh.terminal import console

    trained = Trained.open(RunFolder.open(Path(raw["run"]).expanduser()), raw["weights"])
    explain_run(parse(raw), trained, into.path, console())
