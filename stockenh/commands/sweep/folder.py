"""A sweep's folder: what it holds besides its trials, each of which is a run folder named by its number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockenh.commands.multirun.folder import MultirunFolder
from stockenh.storage.run_folder import RunFolder


@dataclass(frozen=True)
class SweepFolder(MultirunFolder):
    """Names of the files of one sweep."""

    noun, command, file = "sweep", "sweep", "sweep.json"

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def best_option(self) -> Path:
        """The same where Hydra finds it as experiment=best."""
        return self.path / "experiment" / "best.yaml"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    @property
    def pictures(self) -> Path:
        return self.path / "report"

    def trial(self, number: int) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.path / str(number))

    def is_own(self, about: Mapping[str, Any]) -> bool:
        return about["command"] in ("train", "distill")
