"""`stockenh sweep`: a multirun of train, or of distill, whose sweeper searches."""

from __future__ import annotations

from stockenh.commands.distill.command import distill
from stockenh.commands.job import exit_with
from stockenh.commands.multirun.command import parts_of
from stockenh.commands.multirun.resume import begun, is_taken_up, stopped, taken_up
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.commands.train.command import INTERRUPTED, train
from stockenh.config.compose import compose
from stockenh.config.overrides import split_override

DEFAULT = "sweep=default"
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
    if is_taken_up(arguments):
        arguments = taken_up(arguments, SweepFolder, RESUME_KEYS)
    else:
        arguments = begun(arguments, _default(arguments))
    command = distill if any(key == "teacher" for key, _ in map(parts_of, arguments)) else train
    try:
        command(arguments)
    except KeyboardInterrupt:
        exit_with(stopped(arguments, SweepFolder, "trials"), INTERRUPTED)


def _default(arguments: list[str]) -> list[str]:
    """The default search where the arguments name none; a search may be part of an experiment."""
    plain = [a for a in arguments if split_override(a) and "," not in a and "(" not in a]
    names = {key for key, _ in map(parts_of, arguments)}
    return [] if "sweep" in names or ("experiment" in names and _has_search(plain)) else [DEFAULT]


def _has_search(arguments: list[str]) -> bool:
    ours = [a for a in arguments if parts_of(a)[0] == "experiment"]
    return compose(ours).get("sweep") is not None
