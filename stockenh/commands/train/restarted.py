"""A run whose processes torchrun starts again after a failure (`--max-restarts`): it goes on where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from stockenh.commands.train.grid import FLAGS
from stockenh.commands.train.resumed import is_resume_key
from stockenh.errors import RunFolderError
from stockenh.storage.files import write_json
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import parse_json

KEPT = "stockenh_run.json"

_NEW: ContextVar[list[str] | None] = ContextVar("new", default=None)


@contextmanager
def restartable(arguments: list[str]) -> Iterator[list[str]]:
    """The arguments with which to train: after a restart by torchrun resume=RUN, the run that it interrupted.

    Within, `record` keeps where a new run is. A grid of runs begins anew.
    """
    from stockenh.report.terminal import console, print_line

    if _kept() is None or FLAGS & set(arguments):
        yield arguments
        return
    token = _NEW.set(arguments)
    try:
        if (before := _interrupted(arguments)) is None:
            yield arguments
            return
        print_line(console(), f"restart  torchrun has started this command again: it goes on with {before}")
        yield [f"resume={before}", *filter(is_resume_key, arguments)]
    finally:
        _NEW.reset(token)


def record(folder: RunFolder) -> None:
    """Keeps where the new run of this command is, if torchrun may start its process again."""
    if (file := _kept()) is not None and (arguments := _NEW.get()) is not None:
        kept = {"arguments": arguments, "folder": str(folder.path.resolve()), "pid": os.getpid()}
        write_json(file, kept)


def _interrupted(arguments: list[str]) -> Path | None:
    """The folder of the run that the same command began in an earlier process of this torchrun.

    TORCHELASTIC_RESTART_COUNT does not count the restarts that another machine's failure causes.
    """
    if (file := _kept()) is None or not file.is_file():
        return None
    try:
        kept = parse_json(file.read_text(encoding="utf-8"))
        is_restart = kept["arguments"] == arguments and kept["pid"] != os.getpid()
        return Path(kept["folder"]) if is_restart else None
    except (KeyError, TypeError, ValueError, RunFolderError):
        return None


def _kept() -> Path | None:
    """A file beside torchrun's folders of attempts, FOLDER/attempt_0/0/error.json: the same for all of them
    on one machine, and no other torchrun's."""
    errors = os.environ.get("TORCHELASTIC_ERROR_FILE")
    folders = Path(errors).parents[2:3] if errors else ()
    return next((folder / KEPT for folder in folders if folder.is_dir()), None)
