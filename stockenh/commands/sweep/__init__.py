"""`stockenh sweep`: a multirun of train, or of distill, whose sweeper searches."""

from __future__ import annotations

from stockenh.commands.distill import distill
from stockenh.commands.multirun import start_or_resume
from stockenh.commands.multirun.folder import parts_of
from stockenh.commands.sweep.spec import SweepConfig, SweepFolder
from stockenh.commands.train import train_job
from stockenh.config import compose
from stockenh.config.schema import RunConfig, check_values

# What may change when a sweep is resumed.
RESUME_KEYS = (
    "sweep.n_trials", "sweep.n_workers", "sweep.max_hours", "sweep.max_failures", "device", "threads",
)  # fmt: skip


def sweep(arguments: list[str]) -> None:
    """A new search, or with resume=DIR one that was stopped or is to have more trials."""
    check_values(arguments, RunConfig, sweep=SweepConfig)
    start_or_resume(arguments, SweepFolder, RESUME_KEYS, "trials", _run)


def _run(arguments: list[str]) -> None:
    if any(key == "teacher" for key, _ in map(parts_of, arguments)):
        distill(arguments, "sweep_student")
    else:
        compose.run("sweep", train_job, arguments)
