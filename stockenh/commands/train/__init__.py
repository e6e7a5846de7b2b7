"""`stockenh train` and `stockenh find-lr`: parse, build, call."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Container
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.markup import escape

from stockenh.commands.multirun import is_resumed
from stockenh.commands.multirun.worker import JUDGED, Assignment, current
from stockenh.config import compose
from stockenh.config.overrides import make_paths_absolute, split_override, suggest, value_of
from stockenh.config.schema import RunConfig, config_of, parse, upgraded
from stockenh.errors import ConfigError, RunFolderError, StockenhError, Stopped
from stockenh.storage.files import expanded
from stockenh.storage.run_folder import RunFolder
from stockenh.training import world

RESUME_KEYS = ("train.epochs", "device", "data.path", "embedding.checkpoint", "embedding.tokenizer")

log = logging.getLogger(__name__)


def train(arguments: list[str]) -> None:
    """A new run, a grid of them, or with resume=RUN an old one."""
    if is_resumed(arguments):
        resume(arguments)
        return
    compose.run("train", train_job, arguments)


def train_job(raw: dict[str, Any], folder: RunFolder) -> None:
    """One run: alone, a job of a grid, or a trial of a search."""
    config = parse(raw)
    if config.weights and not config.init_from:
        raise ConfigError(
            f"weights={config.weights} says which weights of init_from=RUN to start with, but there is "
            f"no init_from; a run keeps all its own weights and chooses among them on validation"
        )
    if (assignment := current()) is not None:
        train_assigned(folder, config, assignment)
        return
    train_in(folder, config, fresh=True)


def train_assigned(
    folder: RunFolder, config: RunConfig, assignment: Assignment, judged: Container[str] = JUDGED
) -> None:
    """Trains a job of many, from where its folder is; judged: the parts of the data that it is judged on."""
    from stockenh.commands.train.run import train as train_run
    from stockenh.config import build
    from stockenh.training.loop import Interrupted

    quiet = Console(quiet=True)
    with folder.lock():
        if not folder.last.exists():
            folder.begin(config.raw)
        try:
            summary = train_run(config, folder, build.device(config.device), quiet, assignment.report, judged)
        except Interrupted:
            log.info("stopped; its state is saved")
            assignment.give_back()
            return
    kept = next(line for line in folder.read_metrics() if line["epoch"] == summary["best_epoch"])
    assignment.complete(summary, kept["by_weights"][summary["weights"]])


def resume(arguments: list[str]) -> None:
    """Continues a run in its own folder, with its own config and data."""
    folder, config, overrides = resumed_run(arguments)
    if is_finished(folder, config):
        return
    log_into(folder)
    log.info("resumed")
    try:
        command = "train" if config.teacher is None else "distill"
        train_in(folder, config, fresh=False, device_given="device" in overrides, command=command)
    except StockenhError as error:
        log.error("%s", error)
        raise
    if config.teacher is not None:
        _tell_of_comparison(folder)


def _tell_of_comparison(folder: RunFolder) -> None:
    from stockenh.report.terminal import console, program

    again = f"{program()} distill resume={shlex.quote(str(folder))}"
    console().print(f"compare  it with its teacher: {again}", soft_wrap=True, markup=False)


def resumed_run(arguments: list[str]) -> tuple[RunFolder, RunConfig, dict[str, Any]]:
    """The folder of resume=RUN, its config, and what the command line says besides."""
    overrides = _resume_overrides(arguments)
    folder = RunFolder.open(expanded(overrides.pop("resume")))
    raw = upgraded(folder.read_config())
    for key, value in overrides.items():
        node, _, leaf = key.rpartition(".")
        target = raw.get(node) if node else raw
        if not isinstance(target, dict) or leaf not in target:
            raise ConfigError(
                f"{key}: the run's data ({raw.get('data', {}).get('_target_')}) has no such key"
            )
        target[leaf] = value
    make_paths_absolute(raw)
    try:
        config = parse(raw)
    except ConfigError as error:
        raise RunFolderError(f"{folder.config}: {error}") from None
    _refuse_fewer_epochs(folder, config)
    return folder, config, overrides


def _refuse_fewer_epochs(folder: RunFolder, config: RunConfig) -> None:
    done, planned = len(folder.read_metrics()), config_of(folder).train.epochs
    if config.train.epochs < planned and config.train.epochs <= done and not folder.summary.exists():
        raise ConfigError(
            f"train.epochs={config.train.epochs}: {folder} has done {done} epochs of {planned} already, "
            f"take more than that"
        )


def train_in(
    folder: RunFolder,
    config: RunConfig,
    *,
    fresh: bool,
    device_given: bool = True,
    command: str = "train",
    named: RunFolder | None = None,
) -> None:
    """Trains in a folder to the end; a stop leaves with 130 and the command that goes on (of `named`)."""
    from stockenh.commands.train.run import train as train_run
    from stockenh.report.terminal import console
    from stockenh.training.loop import Interrupted

    out = console()
    on = device_of(config, device_given, out)
    with ExitStack() as locked:

        def begin(config: RunConfig) -> None:
            folder.refuse_if_run()
            compose.open_folder()
            locked.enter_context(folder.lock())
            folder.begin(config.raw)

        if fresh:
            folder.refuse_if_run()
        else:
            locked.enter_context(folder.lock())
        try:
            train_run(config, folder, on, out, begin=begin if fresh else None)
        except (Interrupted, KeyboardInterrupt) as stop:
            raise _stopped(folder, stop, command, named or folder) from None


def _stopped(folder: RunFolder, stop: BaseException, command: str, named: RunFolder) -> Stopped:
    """What a stop says: the command that continues, where there is something to continue."""
    from stockenh.report.terminal import program
    from stockenh.training.loop import Interrupted

    if not folder.config.is_file():
        return Stopped("interrupted before the run began: nothing was written")
    saved = "stopped; its state is saved" if isinstance(stop, Interrupted) else "interrupted at once"
    log.info("%s", saved)
    again = f"{program()} {command} resume={shlex.quote(str(named))}"
    return Stopped(f"{saved}. Continue with: {again}")


def device_of(config: RunConfig, given: bool, out: Console) -> Any:
    """The config's device; a resumed run whose GPU is not on this machine goes on without it."""
    from stockenh.config import build
    from stockenh.training.distributed import device_name

    try:
        return build.device(device_name(config.device))
    except ConfigError:
        if given:
            raise
        found = build.device(device_name("auto"))
        out.print(f"device={config.device} of the run is not available here: going on with {found}")
        return found


def is_finished(folder: RunFolder, config: RunConfig, quiet: bool = False) -> bool:
    """Whether a run has nothing left to do; says so, with the result again, unless quiet."""
    from stockenh.commands.train.result import show_result
    from stockenh.report.terminal import console

    if not folder.summary.exists():
        return False
    summary = folder.read_json(folder.summary)
    try:
        if not summary["stopped_early"] and summary["epochs"] < config.train.epochs:
            return False
        if quiet:
            return True
        out = console()
        why = "stopped early: validation had not improved" if summary["stopped_early"] else "all epochs done"
        out.print(f"{escape(str(folder))} is finished ({why}); nothing to resume", soft_wrap=True)
        show_result(folder, summary, sorted(folder.report.glob("*.png")), out)
    except (KeyError, TypeError):
        raise StockenhError(f"{folder.summary} does not hold the summary of a run") from None
    return True


def _resume_overrides(arguments: list[str]) -> dict[str, Any]:
    """The values among the arguments; raises ConfigError where one may not be given on resume."""
    found: dict[str, Any] = {}
    for argument in arguments:
        parts = split_override(argument)
        if parts is None or parts[0] not in ("resume", *RESUME_KEYS):
            name = parts[0] if parts else argument
            raise ConfigError(
                f"{name} can't be given with resume: a run goes on with its own config; only "
                f"{', '.join(RESUME_KEYS)} may change. {suggest(name, RESUME_KEYS)}"
            )
        found[parts[0]] = value_of(argument)
    return found


def log_into(folder: RunFolder) -> None:
    """run.log goes on where Hydra's logging began it."""
    handler = logging.FileHandler(folder.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


GRID_FLAGS = {"-m", "--multirun"}


def train_together(arguments: list[str]) -> None:
    """Trains in this process, or together with the others that torchrun has started."""
    own = world.own_rank()
    if own is None:
        train(arguments)
        return
    if GRID_FLAGS & set(arguments):
        world.refuse_several("a grid of --multirun")
    from stockenh.commands.train.processes import train_in_processes

    train_in_processes(own, lambda: train(arguments))
