"""`stockenh audit`: whether a finished run has seen what it was to forecast."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from stockenh.commands.finished import based_on_run, trained
from stockenh.commands.job import run_job
from stockenh.config import compose
from stockenh.config.schema import parse
from stockenh.storage.run_folder import RunFolder


def audit(arguments: list[str]) -> None:
    """Leaves audit.md, audit.json and audit.png in RUN/report, or where hydra.run.dir says."""
    # the report folder holds what people read: the composed config is the run's own
    based = based_on_run(
        arguments, into=lambda run: [f"hydra.run.dir={run.report}", "hydra.output_subdir=null"]
    )
    compose.run(audit_composed, based)


def audit_composed(cfg: DictConfig) -> None:
    """One job of `audit`."""
    run_job(cfg, _audit)


def _audit(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.commands.audit.audit import LeakFound, audit_run
    from stockenh.evaluation.leakage import leaks
    from stockenh.report.terminal import console

    run = trained(raw)
    checks = audit_run(parse(raw), run, into.path, console())
    if found := leaks(checks):
        raise LeakFound(f"a leak was found: {', '.join(found)}; see {into.path / 'audit.md'}")
