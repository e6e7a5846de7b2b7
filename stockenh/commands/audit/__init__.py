"""`stockenh audit`: whether a finished run has seen what it was to forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockenh.commands.finished import config_for, run_on_finished
from stockenh.config.schema import AuditRunConfig
from stockenh.storage.run_folder import RunFolder


def audit(arguments: list[str]) -> None:
    """Leaves audit.md, audit.json and audit.png in RUN/report, or where hydra.run.dir says."""
    # the report folder holds what people read: the composed config is the run's own
    run_on_finished("audit", _audit, arguments, lambda run: run.report, ("hydra.output_subdir=null",))


def _audit(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.audit.checks import LeakFound, audit_run
    from stockenh.commands.trained import Trained
    from stockenh.config.compose import open_folder
    from stockenh.evaluation.leakage import leaks
    from stockenh.report.terminal import console

    run = Trained.open(RunFolder.open(Path(raw["run"])), raw["weights"])
    checks = audit_run(config_for(raw, run.run, AuditRunConfig), run, folder.path, console())
    open_folder()
    if found := leaks(checks):
        raise LeakFound(f"a leak was found: {', '.join(found)}; see {folder.path / 'audit.md'}")
