"""`stockenh audit`: whether a finished run has seen what it was to forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.config import config_of, parse
from stockenh.overrides import split_override
from stockenh.runfolder import RunFolder
from stockenh.tasks.job import finished_run, refuse_old_folder, run_job


def audit(arguments: list[str]) -> None:
    """Leaves audit.md, audit.json and audit.png in RUN/report, or where hydra.run.dir says."""
    given = dict(parts for a in arguments if (parts := split_override(a)))
    refuse_old_folder(list(given.items()))
    folder = finished_run(arguments)
    # the report folder holds what people read: the composed config is the run's own
    into = [] if "hydra.run.dir" in given else [f"hydra.run.dir={folder.report}", "hydra.output_subdir=null"]
    compose.run(audit_composed, compose.based_on(config_of(folder).raw, [*into, *arguments]))


def audit_composed(cfg: DictConfig) -> None:
    """One job of `audit`."""
    run_job(cfg, _audit)


def _audit(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.analysis.audit import leaks
    from stockenh.run.audit import LeakFound, audit_run
    from stockenh.run.trained import Trained
    from stockenh.terminal import console

    trained = Trained.open(RunFolder.open(Path(raw["run"]).expanduser()), raw["weights"])
    checks = audit_run(parse(raw), trained, into.path, console())
    if found := leaks(checks):
        raise LeakFound(f"a leak was found: {', '.join(found)}; see {into.path / 'audit.md'}")
