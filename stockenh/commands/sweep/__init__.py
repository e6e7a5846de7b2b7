"""`stockenh sweep`: a multirun of train, or of distill, whose sweeper searches."""

from __future__ import annotations

from stockenh.commands.distill import distill
from stockenh.commands.multirun.command import parts_of
from stockenh.commands.multirun.resume import begun, is_taken_up, stopped, taken_up
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.commands.train import train_job
from stockenh.config import compose
from stockenh.errors import Stopped

# What may be other when a sweep goes on.
RESUME_KEYS = (
    "sweep.n_trials",
    "sweep.n_workers",
    "sweep.max_hours",
    "sweep.max_failures",
    "device",
    "threads",
)


def sweep(arguments: list[str]) -> None:
    """A new search, or with resume=DIR one that was stopped or is to have more trials."""
    resumed = is_taken_up(arguments)
    arguments = taken_up(arguments, SweepFolder, RESUME_KEYS) if resumed else begun(arguments)
    try:
        if any(key == "teacher" for key, _ in map(parts_of, arguments)):
            distill(arguments, "sweep_student")
        else:
            compose.run("sweep", train_job, arguments)
    except KeyboardInterrupt:
        raise Stopped(stopped(arguments, SweepFolder, "trials")) from None
