"""The cells of an ablation: how its folder keeps them, and how workers take them one after another."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stockenh.commands.ablate.plan import Cell, Plan
from stockenh.commands.multirun.folder import MultirunFolder
from stockenh.commands.multirun.worker import Assignment
from stockenh.config.overrides import hydra_text
from stockenh.storage.files import is_locked, lock_folder, write_json
from stockenh.storage.run_folder import RunFolder

DONE, FAILED = "done", "failed"
LOCK_SECONDS = 0.1  # a look whether a lock is free holds it for a moment too
MOST_DEATHS = 2  # of workers on one cell, which is then given up
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class AblationFolder(MultirunFolder):
    """Names of the files of one ablation, whose runs lie in RECIPE/seedN."""

    noun, command, file = "ablation", "ablate", "about.json"

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
        """Records that a cell has ended."""
        write_json(self.path / cell.path / "cell.json", {"state": state, **more})

    def reopen(self, cell: Cell) -> None:
        """Forgets that a cell failed, so that it is tried again."""
        if self.state(cell).get("state") == FAILED:
            (self.path / cell.path / "cell.json").unlink(missing_ok=True)
        for suffix in ("claim", "tries"):
            self.file_of(cell, suffix).unlink(missing_ok=True)

    def claim(self, cell: Cell) -> FileLock | None:
        """A lock on a cell, None where another process has it; a killed process frees it."""
        lock = FileLock(self.file_of(cell, "claim"), thread_local=False)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            return None
        return lock

    def is_claimed(self, cell: Cell) -> bool:
        """Whether a living process works on the cell."""
        return is_locked(self.file_of(cell, "claim"))

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second command off this ablation. Raises RunFolderError."""
        return lock_folder(self.path, "works on this ablation")

    def is_own(self, about: Mapping[str, Any]) -> bool:
        return isinstance(about["base"], dict) and isinstance(about["recipes"], dict)

    def file_of(self, cell: Cell, suffix: str) -> Path:
        """Beside the cells: its `claim`, and its `tries`, a dot for each claim that has not ended."""
        return self.workers / f"{cell.path.replace('/', '-')}.{suffix}"


@dataclass
class CellSource:
    """Hands out the cells that have not ended.

    arguments: the overrides that all runs share
    flags:     of the command line, for a command that a cell starts
    configs:   of every recipe that is trained, as plain containers
    epochs:    of the plain recipe
    rounds:    of the cost measurement
    """

    folder: AblationFolder
    plan: Plan
    arguments: tuple[str, ...]
    flags: tuple[str, ...]
    configs: dict[str, dict[str, Any]]
    epochs: int
    rounds: int

    def open(self, worker: str) -> None:
        """A cell is claimed by a lock of its own."""

    def count_ended(self) -> int:
        """How many cells have ended, in whatever way."""
        return sum(bool(self.folder.state(cell)) for cell in self.plan.cells)

    def has_waiting(self) -> bool:
        """Whether cells wait that a new worker could take."""
        return any(not self.folder.state(c) and not self.folder.is_claimed(c) for c in self.plan.cells)

    def take(self) -> Assignment | None:
        """The next cell; waits where all that is left needs a run that another worker trains."""
        while True:
            found, is_waiting = self._look()
            if found is not None or not is_waiting:
                return found
            time.sleep(WAIT_SECONDS)

    def _look(self) -> tuple[Assignment | None, bool]:
        is_waiting = False
        for cell in self.plan.cells:
            if self.folder.state(cell):
                continue
            teacher = self.teacher_of(cell)
            state = DONE if teacher is None else self.folder.state(teacher).get("state")
            if state == DONE:
                if (assignment := self._claim(cell)) is not None:
                    return assignment, False
            elif teacher is not None and state == FAILED:
                self.folder.close(cell, FAILED, {"why": f"{teacher.path}, its teacher, failed"})
            elif teacher is not None:
                is_waiting = is_waiting or self.folder.is_claimed(teacher)
        return None, is_waiting

    def _claim(self, cell: Cell) -> Assignment | None:
        self.folder.workers.mkdir(parents=True, exist_ok=True)
        if (lock := self.folder.claim(cell)) is None:
            return None
        tries = self.folder.file_of(cell, "tries")
        assignment = CellAssignment(cell.number, self.overrides_of(cell), cell, self, lock)
        deaths = tries.stat().st_size if tries.exists() else 0
        if self.folder.state(cell):
            assignment.release()
        elif deaths >= MOST_DEATHS:
            assignment.fail(f"its worker died {deaths} times (out of memory?)")
        else:
            with tries.open("a") as file:
                file.write(".")
            return assignment
        return None

    def teacher_of(self, cell: Cell) -> Cell | None:
        """The cell that must be done before this one."""
        if cell.recipe is None or cell.recipe.teacher is None:
            return None
        wanted = (cell.recipe.teacher, cell.seed)
        return next(c for c in self.plan.cells if c.recipe and (c.recipe.name, c.seed) == wanted)

    def overrides_of(self, cell: Cell) -> list[str]:
        """The overrides of a cell's job; what its recipe sets comes before what all share."""
        own = [f"hydra.sweep.subdir={hydra_text(cell.path)}"]
        if cell.recipe is not None:
            own += [f"seed={cell.seed}"]
            own += cell.recipe.overrides if cell.recipe.kind != "search" else ()
        if (teacher := self.teacher_of(cell)) is not None:
            own.append(f"++teacher={hydra_text(str(self.folder.run(teacher)))}")
        own_keys = {override_key(override) for override in own}
        return [*(a for a in self.arguments if override_key(a) not in own_keys), *own]


@dataclass
class CellAssignment:
    """A cell that this worker has claimed."""

    number: int
    overrides: list[str]
    cell: Cell
    source: CellSource
    lock: FileLock
    stopped: bool = False
    began: float = field(default_factory=time.perf_counter)

    def report(self, epoch: int, metrics: dict[str, Any]) -> bool:
        """Every run of an ablation goes to its end."""
        return False

    def complete(self, summary: dict[str, Any], validation: dict[str, Any]) -> None:
        """The training is done; `end` follows once all that the cell is for has been measured."""

    def end(self, figures: dict[str, Any]) -> None:
        """Closes the cell with what was measured besides its run."""
        seconds = round(time.perf_counter() - self.began, 1)
        self.source.folder.close(self.cell, DONE, {"seconds": seconds, "figures": figures})
        self.release()

    def fail(self, why: str) -> None:
        """Closes the cell as failed, which does not concern the others."""
        self.source.folder.close(self.cell, FAILED, {"why": why})
        self.release()

    def give_back(self) -> None:
        """Lets the cell be resumed where it was saved."""
        self.stopped = True
        self.release()

    def release(self) -> None:
        """Lets other processes have the cell."""
        self.source.folder.file_of(self.cell, "tries").unlink(missing_ok=True)
        self.lock.release()


def override_key(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").partition("=")[0]
