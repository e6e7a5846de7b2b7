"""An ablation's folder: what it holds besides its runs, which lie in RECIPE/seedN."""

from __future__ import annotations

import fcntl
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stockenh.ablation.plan import Cell
from stockenh.errors import RunFolderError
from stockenh.files import write_json
from stockenh.runfolder import RunFolder

DONE, FAILED = "done", "failed"
LOCK_TRIES, LOCK_SECONDS = 5, 0.02


@dataclass(frozen=True)
class AblationFolder:
    """Names of the files of one ablation."""

    path: Path

    @property
    def about(self) -> Path:
        """The command that began it, and what it compares."""
        return self.path / "about.json"

    @property
    def table(self) -> Path:
        return self.path / "ablation.md"

    @property
    def figures(self) -> Path:
        return self.path / "ablation.json"

    @property
    def picture(self) -> Path:
        return self.path / "ablation.png"

    @property
    def workers(self) -> Path:
        return self.path / "workers"

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
        try:
            with self._claims(cell).open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second command off this ablation. Raises RunFolderError."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(f"{self.path}: another process works on this ablation") from None
            yield

    def read(self) -> dict[str, Any]:
        """What is known of the ablation. Raises RunFolderError where this is no ablation's folder."""
        try:
            about = json.loads(self.about.read_text(encoding="utf-8"))
            if not all(isinstance(a, str) for a in about["arguments"]) or not isinstance(about["base"], dict):
                raise ValueError("it is not what an ablation writes")
            if not isinstance(about["recipes"], dict):
                raise ValueError("it is not what an ablation writes")
        except FileNotFoundError:
            raise RunFolderError(
                f"{self.path} holds no ablation (no {self.about.name}); its folder is what stockenh ablate "
                f"left in outputs/"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self.about} is not readable: {error}") from None
        found: dict[str, Any] = about
        return found

    def write(self, about: Mapping[str, Any]) -> None:
        write_json(self.about, about)

    def resume_command(self) -> str:
        return f"stockenh ablate resume={shlex.quote(str(self.path))}"

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
