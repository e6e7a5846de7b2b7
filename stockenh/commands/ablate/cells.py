"""The cells of an ablation, one after another, as a worker sees them."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from stockenh.commands.ablate.folder import DONE, FAILED, AblationFolder
from stockenh.commands.ablate.plan import Cell, Plan
from stockenh.commands.multirun.job import Assignment
from stockenh.config.overrides import hydra_text

MOST_DEATHS = 2  # of workers on one cell, which is then given up
WAIT_SECONDS = 1.0


@dataclass
class CellSource:
    """Hands out the cells that have not ended.

    arguments: the overrides that all runs share
    flags:     of the command line, for a command that a cell starts itself
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

    def take(self) -> Assignment | None:
        """The next cell; waits where all that is left needs a run that another worker is at."""
        while True:
            found, waiting = self._look()
            if found is not None or not waiting:
                return found
            time.sleep(WAIT_SECONDS)

    def _look(self) -> tuple[Assignment | None, bool]:
        waiting = False
        for cell in self.plan.cells:
            if self.folder.state(cell):
                continue
            teacher = self.teacher_of(cell)
            if teacher is not None and (of_teacher := self.folder.state(teacher).get("state")) != DONE:
                if of_teacher == FAILED:
                    self.folder.close(cell, FAILED, {"why": f"{teacher.path}, its teacher, failed"})
                else:
                    waiting = waiting or self.folder.is_claimed(teacher)
                continue
            if (assignment := self._claim(cell)) is not None:
                return assignment, False
        return None, waiting

    def _claim(self, cell: Cell) -> Assignment | None:
        stack = ExitStack()
        deaths = stack.enter_context(self.folder.claim(cell))
        if deaths is None or self.folder.state(cell):
            stack.close()
            return None
        if deaths >= MOST_DEATHS:
            self.folder.close(cell, FAILED, {"why": f"its worker died {deaths} times (out of memory?)"})
            stack.close()
            return None
        return CellAssignment(cell.number, self.overrides_of(cell), cell, self, stack)

    def teacher_of(self, cell: Cell) -> Cell | None:
        """The cell that must be done before this one."""
        if cell.recipe is None or cell.recipe.teacher is None:
            return None
        wanted = (cell.recipe.teacher, cell.seed)
        return next(c for c in self.plan.cells if c.recipe and (c.recipe.name, c.seed) == wanted)

    def overrides_of(self, cell: Cell) -> list[str]:
        """The overrides of a cell's job; what its recipe says comes before what all share."""
        own = [f"hydra.sweep.subdir={hydra_text(cell.path)}"]
        if cell.recipe is not None:
            own += [f"seed={cell.seed}"]
            own += cell.recipe.overrides if cell.recipe.kind != "search" else ()
        if (teacher := self.teacher_of(cell)) is not None:
            own.append(f"teacher={hydra_text(str(self.folder.run(teacher)))}")
        said = {key_of(override) for override in own}
        return [*(a for a in self.arguments if key_of(a) not in said), *own]


@dataclass
class CellAssignment:
    """A cell that is this worker's own."""

    number: int
    overrides: list[str]
    cell: Cell
    source: CellSource
    claim: ExitStack
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
        self.claim.close()

    def fail(self, why: str) -> None:
        """Closes the cell as failed, which does not concern the others."""
        self.source.folder.close(self.cell, FAILED, {"why": why})
        self.claim.close()

    def give_back(self) -> None:
        """Lets the cell be taken up where it was saved."""
        self.stopped = True
        self.claim.close()


def key_of(override: str) -> str:
    """What an override sets."""
    return re.sub(r"^[+~]+", "", override).partition("=")[0]
