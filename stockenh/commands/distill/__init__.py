"""`stockenh distill`: a student trained on a teacher's run, and the same student without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stockenh.commands.finished import finished_runs
from stockenh.commands.multirun import is_resumed
from stockenh.commands.multirun.worker import current
from stockenh.commands.tracking import warn_once
from stockenh.commands.train import (
    continue_run,
    device_of,
    errors_in_log,
    train_assigned,
    train_in,
)
from stockenh.commands.train.resumed import is_finished, resumed_run
from stockenh.config import compose
from stockenh.config.schema import GROUPS, RunConfig, check_values, config_of, parse, to_dict
from stockenh.errors import ConfigError
from stockenh.report.trackers import Warn
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file

# What a student takes from its teacher's run where the command line says nothing else.
OF_TEACHER = ("data", "split", "target", "embedding")


def distill(arguments: list[str], root: str = "distill") -> None:
    """A new student, a grid of them, or with resume=RUN one that was interrupted.

    root: the config whose defaults hold but for what the teacher's run gives
    """
    if is_resumed(arguments):
        _resume(arguments)
        return
    check_values(arguments, RunConfig)
    teacher, *_ = finished_runs(arguments, "teacher")
    config, rest = compose.config_file(arguments)
    of_teacher = to_dict(config_of(teacher))
    config = {**{group: of_teacher[group] for group in OF_TEACHER}, **config}
    name = compose.with_run(root, config, rest, config.keys() & GROUPS.keys(), config.keys())
    compose.run(name, distill_job, rest)


def distill_job(raw: dict[str, Any], folder: RunFolder) -> None:
    """One student: alone, a job of a grid, or a trial of a search."""
    from stockenh.commands.ensembles import opened
    from stockenh.report.terminal import console

    config = parse(raw)
    # before the data are read, which may take long
    teacher = opened(config.teacher or "", config.weights)
    teacher.require_inputs(config, "teacher")
    if (assignment := current()) is not None:
        train_assigned(folder, config, assignment)
        return
    warn = warn_once(console())
    train_in(folder, config, fresh=True, command="distill", warn=warn)
    _finish(folder, config, warn)


def _resume(arguments: list[str]) -> None:
    folder, config, changes = resumed_run(arguments)
    if config.teacher is None:
        raise ConfigError(f"{folder} is no student of a teacher: continue it with stockenh train resume=RUN")
    if not is_finished(folder, config):
        continue_run(folder, config, changes)
    with errors_in_log():
        _finish(folder, config)


def _finish(folder: RunFolder, own: RunConfig, warn: Warn | None = None) -> None:
    """What follows once the student is trained: the same without a teacher, and the comparison.

    own: the student's config, with this machine's cache and tracker
    """
    from stockenh.commands.distill.compare import compare
    from stockenh.commands.report.pages import leave_page
    from stockenh.report.terminal import console

    out = console()
    config = replace(config_of(folder), cache_dir=own.cache_dir, tracker=own.tracker)
    alone = RunFolder(folder.path / "without_teacher")
    plainly = replace(config, teacher=None, weights=None)
    fresh = not is_file(alone.config)
    if fresh or not is_finished(alone, plainly, quiet=True):
        out.print("\nalone    the same student without a teacher, for comparison")
        train_in(alone, plainly, fresh=fresh, device_given=False, command="distill", named=folder, warn=warn)
    out.print()
    compare(config, folder, alone, device_of(config, False, out), out)
    leave_page(folder.path, out)
