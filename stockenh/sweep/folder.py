"""A sweep's folder: what it holds besides its trials, each of which is a run folder named by its number."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockenh.errors import RunFolderError
from stockenh.files import write_json
from stockenh.runfolder import RunFolder


@dataclass(frozen=True)
class SweepFolder:
    """Names of the files of one sweep."""

    path: Path

    @property
    def about(self) -> Path:
        """The command that began it, and what came of it."""
        return self.path / "sweep.json"

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

    @property
    def locks(self) -> Path:
        return self.path / "workers"

    def trial(self, number: int) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.path / str(number))

    def read(self) -> dict[str, Any]:
        """What is known of the sweep. Raises RunFolderError where this is no sweep's folder."""
        try:
            about = json.loads(self.about.read_text(encoding="utf-8"))
            arguments, command = about["arguments"], about["command"]
            if not all(isinstance(a, str) for a in arguments) or command not in ("train", "distill"):
                raise ValueError("it is not what a sweep writes")
        except FileNotFoundError:
            raise RunFolderError(
                f"{self.path} holds no sweep (no {self.about.name}); a sweep's folder is what stockenh sweep "
                f"left in outputs/"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self.about} is not readable: {error}") from None
        found: dict[str, Any] = about
        return found

    def write(self, about: Mapping[str, Any]) -> None:
        write_json(self.about, about)

    def resume_command(self) -> str:
        return f"stockenh sweep resume={shlex.quote(str(self.path))}"
