"""What Hydra makes for a job that is refused before it began, taken away again."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from stockenh.config.overrides import split_override
from stockenh.storage.files import expanded

# What Hydra writes before a job begins, and a run before it has read its data.
_BEFORE: Final = {".hydra", "run.log", "config.yaml", ".lock"}
_OF_SWEEP: Final = {"multirun.yaml"}
_STAMPED: Final = re.compile(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}")
_KEYS: Final = ("hydra.run.dir", "hydra.sweep.dir")


class Folders:
    """The folders that were there when a command began: none of them is ever taken away."""

    def __init__(self, overrides: Iterable[str]) -> None:
        given = dict(parts for text in overrides if (parts := split_override(text)))
        self.named = [_path(given[key]) for key in _KEYS if key in given]
        roots = [Path("outputs").absolute(), *(path for path in self.named if path is not None)]
        self.empty = {
            path for path in self.named if path is not None and path.is_dir() and not _children(path)
        }
        self.above: set[Path] = set()
        self.there = {p for root in roots for p in (root, *root.parents, *_children(root)) if p.exists()}

    def take_away(self, folder: Path) -> None:
        """Removes a job's folder that this command made and that holds nothing yet."""
        if not (self._is_new(folder) or folder in self.empty) or not _holds_only(folder, _BEFORE):
            return
        _close_logs(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if folder in self.empty:
            folder.mkdir()
            return
        self.above.add(folder.parent)

    def tidy(self) -> None:
        """Once the command is done, removes the new folders above those that are gone, where nothing is left.

        A sweep's holds Hydra's own file until its last job is over.
        """
        for first in self.above:
            for folder in (first, *first.parents):
                if folder in self.there or not _holds_only(folder, _OF_SWEEP):
                    break
                shutil.rmtree(folder, ignore_errors=True)

    def _is_new(self, folder: Path) -> bool:
        if folder in self.there or not folder.is_dir():
            return False
        if self.named:
            # one that is named after the time, or by a config file, can't be told from an older one
            return any(path is not None and folder.is_relative_to(path) for path in self.named)
        return any(_STAMPED.fullmatch("/".join(path.parts[-3:])) for path in (folder, folder.parent))


_noted: ContextVar[Folders | None] = ContextVar("_noted", default=None)


@contextmanager
def noting(overrides: Iterable[str]) -> Iterator[None]:
    """While a command lasts, remembers which folders were there before it."""
    folders = Folders(overrides)
    token = _noted.set(folders)
    try:
        yield
    finally:
        folders.tidy()
        _noted.reset(token)


def take_away(folder: Path) -> None:
    """See `Folders.take_away`; nothing in a launcher's process, which doesn't know what was there before."""
    if (folders := _noted.get()) is not None:
        folders.take_away(folder)


def _path(value: str) -> Path | None:
    text = value.strip("'\"")
    return None if "${" in text else expanded(text).absolute()


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _holds_only(folder: Path, names: set[str]) -> bool:
    return {child.name for child in _children(folder)} <= names


def _close_logs(folder: Path) -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
            root.removeHandler(handler)
            handler.close()
