"""An ablation's folder: what it holds besides its runs, which lie in RECIPE/seedN."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stockenh.commands.ablate.plan import Cell
from stockenh.commands.multirun.folder import MultirunFolder
from stockenh.storage.files import is_locked, lock_folder, write_json
from stockenh.storage.run_folder import RunFolder

DONE, FAILED = "done", "failed"
LOCK_TRIES, LOCK_SECONDS = 5, 0.02


@dataclass(frozen=True)
class AblationFolder(MultirunFolder):
    """Names of the files of one ablation."""

    noun, command, file = "ablation", "ablate", "about.json"

    @property
    def table(self) -> Path:
        return self.path / "ablation.md"

    @property
    def figures(self) -> Path:
        return self.path / "ablation.json"

    @property
    def picture(self) -> Path:
        return self.path / "ablation.png"

    def run(self, cell: Cell) -> RunFolder:
        return RunFolder(self.path / cell.path)

    def state(self, cell: Cell) -> dict[str, Any]:
        """{"state": "done" or "failed", ...} of a cell that has ended, else nothing."""
        try:
            found = json.loads((self.path / cell.path / "cell.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("state") in (DONE, FAILED) else {}

    def close(self, cell: Cell, state: str, more: Mapping[str, Any]) -> None:
        """Writes down that a cell has ended."""
        write_json(self.path / cell.path / "cell.json", {"state": state, **more})

    def reopen(self, cell: Cell) -> None:
        """Forgets that a cell failed, so that it is tried again."""
        if self.state(cell).get("state") == FAILED:
            (self.path / cell.path / "cell.json").unlink(missing_ok=True)
        self._claims(cell).unlink(missing_ok=True)

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[int | None]:
        """Makes a cell this process's own for a while: how often it was claimed before without an end.

        None where another process has it. A killed process leaves no claim behind.
        """
        path = self._claims(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as handle:
            if not _locked(handle):
                yield None
                return
            handle.seek(0)
            before = len(handle.read())
            handle.write(".")
            handle.flush()
            yield before
            handle.truncate(0)

    def is_claimed(self, cell: Cell) -> bool:
        """Whether a living process works on the cell."""
        return is_locked(self._claims(cell))

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second command off this ablation. Raises RunFolderError."""
        return lock_folder(self.path, "works on this ablation")

    def is_own(self, about: Mapping[str, Any]) -> bool:
        return isinstance(about["base"], dict) and isinstance(about["recipes"], dict)

    def _claims(self, cell: Cell) -> Path:
        return self.workers / f"{cell.path.replace('/', '-')}.claim"


def _locked(handle: IO[str]) -> bool:
    """Takes the file's lock; whoever only looks whether it is taken has it for a moment too."""
    for _ in range(LOCK_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(LOCK_SECONDS)
    return False
