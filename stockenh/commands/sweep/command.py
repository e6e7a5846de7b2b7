"""`stockenh sweep`: a multirun of train, or of distill, whose sweeper searches."""

from __future__ import annotations

from stockenh.commands.distill.command import distill
from stockenh.commands.job import exit_with
from stockenh.commands.multirun.resume import (
    is_resumed,
    new_arguments,
    parts_of,
    resume_arguments,
    stop_message,
)
from stockenh.commands.sweep.spec import SweepFolder
from stockenh.commands.train.command import INTERRUPTED, train
from stockenh.config.compose import compose
from stockenh.config.overrides import split_override

DEFAULT = "sweep=default"
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
        arguments = new_arguments(arguments, _default(arguments))
    command = distill if any(key == "teacher" for key, _ in map(parts_of, arguments)) else train
    try:
        command(arguments)
    except KeyboardInterrupt:
        exit_with(stop_message(arguments, SweepFolder, "trials"), INTERRUPTED)


def _default(arguments: list[str]) -> list[str]:
    """The default search where the arguments name none; a search may be part of an experiment."""
    plain = [a for a in arguments if split_override(a) and "," not in a and "(" not in a]
    names = {key for key, _ in map(parts_of, arguments)}
    return [] if "sweep" in names or ("experiment" in names and _has_search(plain)) else [DEFAULT]


def _has_search(arguments: list[str]) -> bool:
    ours = [a for a in arguments if parts_of(a)[0] == "experiment"]
    return compose(ours).get("sweep") is not None
