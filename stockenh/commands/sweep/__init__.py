"""`stockenh sweep`: a multirun of train, or of distill, whose sweeper searches."""

from __future__ import annotations

from stockenh.commands.distill import distill
from stockenh.commands.multirun.resume import (
    is_resumed,
    new_arguments,
    parts_of,
    resume_arguments,
    stop_message,
)
from stockenh.commands.sweep.spec import SweepFolder
from stockenh.commands.train import train_job
from stockenh.config import compose
from stockenh.errors import Stopped

# What may change when a sweep is resumed.
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
    if is_resumed(arguments):
        arguments = resume_arguments(arguments, SweepFolder, RESUME_KEYS)
    else:
        arguments = new_arguments(arguments)
    try:
        if any(key == "teacher" for key, _ in map(parts_of, arguments)):
            distill(arguments, "sweep_student")
        else:
            compose.run("sweep", train_job, arguments)
    except KeyboardInterrupt:
        raise Stopped(stop_message(arguments, SweepFolder, "trials")) from None
