"""The folder of an ablation: how it keeps its cells, and the locks on those that workers have claimed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from stockenh.commands.ablate.plan import Cell
from stockenh.commands.multirun.folder import MultirunFolder
from stockenh.errors import RunFolderError
from stockenh.storage.files import is_locked, lock_folder, write_json
from stockenh.storage.run_folder import AS_WRITTEN, PluginOrigin, RunFolder
from stockenh.storage.untrusted import is_file, read_json

DONE, FAILED = "done", "failed"
FORECASTS = "forecasts.safetensors"  # of a cell
LOCK_SECONDS = 0.1  # a look whether a lock is free holds it for a moment too


class AblationRecord(TypedDict):
    """The content of about.json."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]

    arguments: list[str]
    base: dict[str, Any]  # the plain recipe, by dotted key
    recipes: dict[str, list[str]]  # of each the kind and its overrides
    plugins: NotRequired[list[PluginOrigin]]


class Figures(TypedDict, total=False):
    """What was measured of a cell: of a run, of a search, or of what the recipes cost."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]

    views: bool  # whether there are forecasts with noisy views
    weights: str  # that validation chose
    epochs: int
    trial: int
    trials: int
    device: str
    rounds: int
    train_windows: int
    train_windows_per_second: dict[str, float]
    train_speed: dict[str, list[float]]
    inference_speed: dict[str, list[float]]
    memory: dict[str, float | None]
    weights_bytes: dict[str, float | None]


class CellRecord(TypedDict):
    """The content of cell.json."""

    state: Literal["done", "failed"]
    seconds: NotRequired[float]
    why: NotRequired[str]
    figures: NotRequired[Figures]


@dataclass(frozen=True)
class AblationFolder(MultirunFolder):
    """Names of the files of one ablation, whose runs lie in RECIPE/seedN."""

    noun, command, file, written = "ablation", "ablate", "about.json", AblationRecord

    def run(self, cell: Cell) -> RunFolder:
        return RunFolder(self.path / cell.path)

    def state(self, cell: Cell) -> dict[str, Any]:
        """{"state": "done" or "failed", ...} of a cell that has ended, else nothing.

        One whose forecasts are not there, or lack the views that are wanted now, has not ended: it is of an
        earlier version, or of an ablation of other techniques. Its run is there, so it takes no training.
        """
        try:
            found: CellRecord = read_json(self.path / cell.path / "cell.json", CellRecord)
        except (FileNotFoundError, RunFolderError):
            return {}
        needed = ("seconds", "figures") if found["state"] == DONE else ("why",)
        if not all(key in found for key in needed):
            return {}
        if found["state"] == DONE and cell.recipe is not None:
            has_views = found["figures"].get("views") is True
            if not is_file(self.forecasts(cell)) or (cell.viewed and not has_views):
                return {}
        return dict(found)

    def has_begun(self, cell: Cell) -> bool:
        """Whether the run of a cell can be resumed from a checkpoint, or its search from its study."""
        is_search = cell.recipe is not None and cell.recipe.kind == "search"
        return (self.path / cell.path / "search").is_dir() if is_search else is_file(self.run(cell).last)

    def lacks_forecasts(self, cell: Cell) -> bool:
        """Whether an earlier version recorded this cell as done, without its forecasts."""
        return is_file(self.path / cell.path / "cell.json") and not is_file(self.forecasts(cell))

    def forecasts(self, cell: Cell) -> Path:
        """What a cell forecast for the test part, row by row."""
        return self.path / cell.path / FORECASTS

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

    def file_of(self, cell: Cell, suffix: str) -> Path:
        """Beside the cells: its `claim`, and its `tries`, a dot for each claim that has not ended."""
        return self.workers / f"{cell.path.replace('/', '-')}.{suffix}"
