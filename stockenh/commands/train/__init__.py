"""`stockenh train` and `stockenh find-lr`: a new run, a grid of them, or an old one resumed; a range test."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console

from stockenh.commands.finished import require_own_folder
from stockenh.commands.multirun import is_resumed
from stockenh.commands.multirun.worker import JUDGED, Assignment, current
from stockenh.commands.tracking import track, warn_once
from stockenh.commands.train import grid
from stockenh.commands.train.restarted import record, restartable
from stockenh.commands.train.resumed import is_finished, resumed_run
from stockenh.config import compose, registry
from stockenh.config.schema import GROUPS, RunConfig, parse
from stockenh.errors import ConfigError, StockenhError, Stopped
from stockenh.report.terminal import PlainFormatter
from stockenh.report.trackers import NoTracker, Warn
from stockenh.storage.files import LogFile
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file
from stockenh.training import world

log = logging.getLogger(__name__)


def train(arguments: list[str]) -> None:
    """A new run, a grid of them, or with resume=RUN an old one; a part of it in a process of torchrun's.

    After a restart by torchrun it goes on with the run that was interrupted.
    """
    own = world.own_rank()
    if own is not None and grid.FLAGS & set(arguments):
        world.refuse_several("a grid of --multirun")
    with ExitStack() as several:
        if own is not None:
            from stockenh.commands.train.processes import process_group

            several.enter_context(process_group(own))
        arguments = several.enter_context(restartable(arguments))
        if is_resumed(arguments):
            resume(arguments)
        else:
            root, rest = compose.with_file("train", arguments)
            with grid.compared(rest) as given:
                compose.run(root, train_job, given)


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
    with grid.job(folder) as stops:
        if stops is None or not stops():
            train_in(folder, config, fresh=not grid.is_requeued(folder), stops=stops)


def train_assigned(
    folder: RunFolder, config: RunConfig, assignment: Assignment, judged: Container[str] = JUDGED
) -> None:
    """Trains a job of many, from where its folder is; judged: the parts of the data that it is judged on."""
    from stockenh.commands.train.run import train as train_run
    from stockenh.config import build
    from stockenh.training.stop import Interrupted

    quiet, device = Console(quiet=True), build.device(config.device)
    with folder.lock():
        if not is_file(folder.last):
            folder.begin(config.raw)
        try:
            # a failure is in the trial's own log: the command has warned of it already
            with track(config, warn_once(quiet)) as tracked:
                report = assignment.report
                summary = train_run(
                    config, folder, device, quiet, report, judged, tracked=tracked, stops=assignment.stops
                )
        except Interrupted as stop:
            log.info("stopped; its state is saved")
            assignment.give_back()
            stop.pass_on()
            return
    kept = next(line for line in folder.read_metrics() if line["epoch"] == summary["best_epoch"])
    assignment.complete(summary, dict(kept["by_weights"][summary["weights"]]))


def resume(arguments: list[str]) -> None:
    """Continues a run in its own folder, with its own config and data."""
    from stockenh.report.terminal import console, print_line, program

    folder, config, changes = resumed_run(arguments)
    if not is_finished(folder, config) and continue_run(folder, config, changes):
        again = f"{program()} distill resume={shlex.quote(str(folder))}"
        print_line(console(), f"compare  it with its teacher: {again}")


def continue_run(folder: RunFolder, config: RunConfig, changes: Mapping[str, Any]) -> bool:
    """Trains on in the folder of an old run, whose log goes on; returns whether it is a teacher's student."""
    from stockenh.report.terminal import console, print_line

    handler = LogFile(folder.log)
    handler.setFormatter(PlainFormatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    log.info("resumed")
    if isinstance(config.tracker, NoTracker) and is_file(folder.tracker):
        print_line(console(), "tracker  this run was sent to one: add tracker=NAME to go on there")
    command = "train" if config.teacher is None else "distill"
    with errors_in_log():
        given = "device" in changes
        train_in(folder, config, fresh=False, device_given=given, command=command, changes=changes)
    return config.teacher is not None


@contextmanager
def errors_in_log() -> Iterator[None]:
    """Within, an error that ends the command is written to the log, too."""
    try:
        yield
    except StockenhError as error:
        log.error("%s", error)
        raise


def train_in(
    folder: RunFolder,
    config: RunConfig,
    *,
    fresh: bool,
    device_given: bool = True,
    command: str = "train",
    named: RunFolder | None = None,
    changes: Mapping[str, Any] | None = None,
    warn: Warn | None = None,
    stops: Callable[[], bool] | None = None,
) -> None:
    """Trains in a folder to the end and shows the result; see `exclusive` and `device_of`.

    changes: the settings that a resumed run takes from the command line, by dotted key; warn: gets the
    failure of a tracker, by default that of this run alone; stops: another reason to stop than a signal
    """
    from stockenh.commands.report.pages import leave_page
    from stockenh.commands.train.members import train_members
    from stockenh.commands.train.result import show_result
    from stockenh.commands.train.run import train as train_run
    from stockenh.report.terminal import console

    out = console()
    if fresh:
        for line in registry.unused(type(getattr(config, group)) for group in GROUPS):
            registry.warn(line)
    device = device_of(config, device_given, out)
    with track(config, warn or warn_once(out)) as tracked:
        with exclusive(folder, fresh, command, named, config.tracker.overrides()) as begin:
            if config.train.members > 1:
                summary = train_members(config, folder, device, out, begin, changes or {}, tracked)
            else:
                summary = train_run(config, folder, device, out, begin=begin, tracked=tracked, stops=stops)
        show_result(folder, summary, out)
        leave_page(folder.path, out)


@contextmanager
def exclusive(
    folder: RunFolder,
    fresh: bool,
    command: str = "train",
    named: RunFolder | None = None,
    words: Sequence[str] = (),
) -> Iterator[Callable[[RunConfig], None] | None]:
    """Locks the folder of an old run; for a new one yields what makes and locks it once the run begins.

    A stop within leaves with 130 and the command that continues `named`, by default the folder; words: what
    that command must be given again.
    """
    from stockenh.training.stop import Interrupted

    with ExitStack() as locked:

        def begin(config: RunConfig) -> None:
            folder.refuse_if_run()
            compose.open_folder()
            locked.enter_context(folder.lock())
            folder.begin(config.raw)
            record(folder)

        if fresh:
            folder.refuse_if_run()
        else:
            locked.enter_context(folder.lock())
        try:
            yield begin if fresh else None
        except (Interrupted, KeyboardInterrupt) as stop:
            if isinstance(stop, Interrupted):
                grid.requeue(folder, stop)
            raise _stopped(folder, stop, command, named or folder, words) from None


def _stopped(
    folder: RunFolder, stop: BaseException, command: str, named: RunFolder, words: Sequence[str]
) -> Stopped:
    """What a stop says: the command that continues, where there is something to continue."""
    from stockenh.report.terminal import program
    from stockenh.training.stop import Interrupted

    if not is_file(folder.config):
        return Stopped("interrupted before the run began: nothing was written")
    saved = "stopped; its state is saved" if isinstance(stop, Interrupted) else "interrupted at once"
    log.info("%s", saved)
    again = " ".join([f"{program()} {command} resume={shlex.quote(str(named))}", *map(shlex.quote, words)])
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


def find_lr(arguments: list[str]) -> None:
    """A learning-rate range test, or a grid of them, each in a folder of its own."""
    root, rest = compose.with_file("find_lr", arguments)
    compose.run(root, _find_lr, rest)


def _find_lr(raw: dict[str, Any], folder: RunFolder) -> None:
    require_own_folder(folder, "a range test")
    folder.refuse_if_run()
    config = parse(raw)
    from stockenh.commands.train.range_test import find_lr as find
    from stockenh.config import build
    from stockenh.report.terminal import console

    find(config, folder, build.device(config.device), console())
