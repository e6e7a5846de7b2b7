"""`stockenh distill`: a student trained on a teacher's run, and the same student without it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stockenh.commands.job import finished_run, refuse_old_folder, refuse_run, refuse_sweep, run_job
from stockenh.commands.multirun.worker import current
from stockenh.commands.train.command import (
    device_of,
    is_finished,
    log_into,
    taken_up,
    train_assigned,
    train_in,
)
from stockenh.config import compose
from stockenh.config.overrides import config_folders, split_override
from stockenh.config.schema import RunConfig, config_of, parse
from stockenh.errors import ConfigError, StockenhError
from stockenh.storage.run_folder import RunFolder

# What a student takes from its teacher's run where the command line says nothing else.
OF_TEACHER = ("data", "split", "embedding")

log = logging.getLogger(__name__)


def distill(arguments: list[str]) -> None:
    """A new student, a grid of them, or with resume=RUN one that was interrupted."""
    given = [parts for a in arguments if (parts := split_override(a))]
    if any(key == "resume" and value != "null" for key, value in given):
        _resume(arguments)
        return
    refuse_old_folder(given)
    teacher = finished_run(arguments, "teacher")
    student = [] if any(key == "model" for key, _ in given) or _names_model(arguments) else ["model=student"]
    based = compose.based_on(config_of(teacher).raw, [*student, *arguments], OF_TEACHER, ())
    compose.run(distill_composed, based)


def _names_model(arguments: list[str]) -> bool:
    """Whether an experiment among the arguments has a model of its own, as the best trial of a search has."""
    ours = [a for a in arguments if (split_override(a) or ("",))[0] == "experiment"]
    if not ours:
        return False
    folders = config_folders(arguments)
    return bool(compose.compose(ours, folders).model != compose.compose([]).model)


def distill_composed(cfg: DictConfig) -> None:
    """One job of `distill`."""
    run_job(cfg, _distill)


def _distill(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.trained import Trained

    refuse_run(raw)
    refuse_sweep(raw)
    config = parse(raw)
    if config.init_from:
        raise ConfigError("init_from= can't be given with teacher=: weights= then names the teacher's")
    # before the data are read, which may take long
    Trained.open(RunFolder.open(Path(config.teacher or "")), config.weights).require_inputs(config, "teacher")
    if (assignment := current()) is not None:
        train_assigned(folder, config, assignment)
        return
    train_in(folder, config, fresh=True, command="distill")
    _finish(folder)


def _resume(arguments: list[str]) -> None:
    folder, config, overrides = taken_up(arguments)
    if config.teacher is None:
        raise ConfigError(f"{folder} is no student of a teacher: continue it with stockenh train resume=RUN")
    if not is_finished(folder, config):
        log_into(folder)
        log.info("resumed")
        train_in(folder, config, fresh=False, device_given="device" in overrides, command="distill")
    try:
        _finish(folder)
    except StockenhError as error:
        log.error("%s", error)
        raise


def _finish(folder: RunFolder) -> None:
    """What follows once the student is trained: the same without a teacher, and the comparison."""
    from stockenh.commands.distill.compare import compare
    from stockenh.report.terminal import console

    out = console()
    config = config_of(folder)
    alone = RunFolder(folder.path / "without_teacher")
    plainly = _without_teacher(config)
    fresh = not alone.config.is_file()
    if fresh or not is_finished(alone, plainly, quiet=True):
        out.print("\nalone    the same student without a teacher, for comparison")
        train_in(alone, plainly, fresh=fresh, device_given=False, command="distill", named=folder)
    out.print()
    compare(config, folder, alone, device_of(config, False, out), out)


def _without_teacher(config: RunConfig) -> RunConfig:
    return parse({**config.raw, "teacher": None, "weights": None})
