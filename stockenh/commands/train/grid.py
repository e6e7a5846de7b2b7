"""A grid of `train --multirun`: its table, and how its jobs stop and are requeued under a launcher."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from stockenh.commands.multirun import SHOWS, stops
from stockenh.config.overrides import split_override, unquoted
from stockenh.errors import Stopped, counted
from stockenh.report.terminal import program
from stockenh.storage.files import LOCK, is_locked
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file

if TYPE_CHECKING:
    from stockenh.training.stop import Interrupted

FLAGS = {"-m", "--multirun"}
REQUEUED = ".requeued"  # in a run folder whose job the launcher starts again, to go on there

log = logging.getLogger(__name__)


@contextmanager
def compared(arguments: list[str]) -> Iterator[list[str]]:
    """The arguments, those of a grid with its folder; a table of the grid's runs follows, failed ones too."""
    keys = [(split_override(argument) or ("", ""))[0] for argument in arguments]
    if not FLAGS & set(arguments) or any(a.partition("=")[0] in SHOWS for a in arguments):
        yield arguments
        return
    if "hydra.sweep.dir" in keys:
        value = (split_override(arguments[keys.index("hydra.sweep.dir")]) or ("", ""))[1]
        folder = unquoted(value)
    else:
        folder = Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S-%f"))
        arguments = [*arguments, f"hydra.sweep.dir={folder}"]
    stops.withdraw(folder)
    launcher = next((a for a in reversed(arguments) if a.startswith("hydra/launcher=")), "")
    try:
        if launcher in ("", "hydra/launcher=basic"):
            yield arguments
            return
        with stops.heeded(folder, lambda: bool(_running(folder)), waits=True):
            yield arguments
        if stops.is_requested(folder):
            raise Stopped(_stopped(folder))
    except KeyboardInterrupt as stop:
        raise (stop if isinstance(stop, Stopped) else Stopped(_stopped(folder))) from None
    finally:
        _compare(folder)


def _compare(folder: Path) -> None:
    """Prints a line per run of a grid: what its runs differ in, and their scores."""
    from stockenh.commands.runs import listing as reading
    from stockenh.commands.runs.show import incomparable, listing, remarks
    from stockenh.report.terminal import console, print_line

    jobs = [path for path in reading.find(folder) if path.parent == folder and path.name.isdecimal()]
    runs = [reading.read(path) for path in sorted(jobs, key=lambda path: int(path.name))]
    if len(runs) < 2:
        return
    out = console()
    out.print()
    differ = reading.differing(runs)
    # that a value of an option was changed is said by the value itself
    varied = {key: of for key, of in differ.items() if "." in key or len({str(v).strip("*") for v in of}) > 1}
    out.print(listing(runs, folder, out.width, varied))
    for line in remarks(runs, folder):
        print_line(out, line)
    if why := incomparable(runs):
        out.print(why)
    print_line(out, f"grid     {folder.absolute()}")


@contextmanager
def job(run: RunFolder) -> Iterator[Callable[[], bool] | None]:
    """Around a job of a grid: whether the grid's stop file is there; None for a run alone.

    Under a launcher a stop is no error of the job: the command that started the grid says what became of it.
    """
    config = HydraConfig.get() if HydraConfig.initialized() else None
    folder = run.path.absolute().parent
    if config is None or config.mode != RunMode.MULTIRUN or Path(str(config.sweep.dir)).absolute() != folder:
        yield None
        return
    try:
        yield lambda: stops.is_requested(folder)
    except Stopped as stop:
        if config.runtime.choices["hydra/launcher"] == "basic":
            raise
        log.info("%s", stop)


def requeue(folder: RunFolder, stop: Interrupted) -> None:
    """Passes a preemption on to the launcher, which may end this process and start its job again."""
    from stockenh.training.stop import PREEMPTION

    if stop.signum is None or stop.signum != PREEMPTION:
        return
    marker = folder.path / REQUEUED
    with suppress(OSError):
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    with suppress(Exception, KeyboardInterrupt):  # there is no launcher, or the job may not be requeued
        stop.pass_on()
    with suppress(OSError):
        marker.unlink()


def is_requeued(folder: RunFolder) -> bool:
    """Whether this job was preempted and goes on in its folder; says so once."""
    marker = folder.path / REQUEUED
    if not is_file(marker):
        return False
    marker.unlink()
    return is_file(folder.last)


def _runs(folder: Path) -> list[RunFolder]:
    return [RunFolder(path) for path in folder.glob("[0-9]*") if is_file(path / "config.yaml")]


def _running(folder: Path) -> list[RunFolder]:
    return [run for run in _runs(folder) if is_locked(run.path / LOCK)]


def _stopped(folder: Path) -> str:
    """What a stop of a grid says."""
    running = _running(folder)
    left = [run for run in _runs(folder) if not is_file(run.summary) and run not in running]
    saved = [run for run in left if is_file(run.last)]
    parts = [f"{counted(len(saved), 'run')} saved"]
    if lost := len(left) - len(saved):
        parts.append(f"{lost} lost: stopped before the first checkpoint")
    if running:
        parts.append(
            f"{len(running)} still running: saved once the job sees {folder.absolute() / stops.STOP}"
        )
    again = f"{program()} train resume={folder.absolute()}/N"
    return f"stopped; {', '.join(parts)}. Continue each with: {again}"
