"""The folder of a multirun: the command that started it, and what it records besides its runs."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stockenh.errors import RunFolderError
from stockenh.report.terminal import program
from stockenh.storage.files import write_json

WORKERS = "workers"  # locks and output of workers

# Settings that change nothing of what a run finds.
IMMATERIAL = (
    "device", "threads", "cache_dir", "tta.", "export.", "explain.", "train.checkpoint_minutes",
    "train.resident",
)  # fmt: skip
SHOWN = 4  # differences in a message


@dataclass(frozen=True)
class MultirunFolder(ABC):
    """Names of the files of one multirun.

    noun: what it is called; command: of stockenh, which makes and resumes it; file: by which it is known
    """

    path: Path

    noun: ClassVar[str]
    command: ClassVar[str]
    file: ClassVar[str]

    @property
    def about(self) -> Path:
        """The command that started it, and what the multirun must remember."""
        return self.path / self.file

    @property
    def workers(self) -> Path:
        return self.path / WORKERS

    @abstractmethod
    def is_own(self, about: Mapping[str, Any]) -> bool:
        """Whether the content of that file, besides the arguments, is what the command writes."""

    def read(self) -> dict[str, Any]:
        """What is recorded of the multirun. Raises RunFolderError where this is no folder of its kind."""
        try:
            about: dict[str, Any] = json.loads(self.about.read_text(encoding="utf-8"))
            arguments = about["arguments"]
            if not isinstance(arguments, list) or not all(isinstance(a, str) for a in arguments):
                raise ValueError("its arguments are no list of words")
            if not self.is_own(about):
                raise ValueError(f"it is not what stockenh {self.command} writes")
        except FileNotFoundError:
            raise RunFolderError(
                f"{self.path} holds no {self.noun} (no {self.file}); its folder is what stockenh "
                f"{self.command} left in outputs/"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self.about} is not readable: {error}") from None
        return about

    def write(self, about: Mapping[str, Any]) -> None:
        write_json(self.about, about)

    def resume_command(self, flags: Sequence[str] = ()) -> str:
        """The command that resumes it; flags: those that it was started with, which must be given again."""
        words = [f"resume={shlex.quote(str(self.path))}", *map(shlex.quote, flags)]
        return f"{program()} {self.command} {' '.join(words)}"


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], as_text: Callable[[Any], str] = str
) -> list[str]:
    """`optimizer.lr: 0.0001, was 0.001` for each dotted key that differs."""

    def value(values: Mapping[str, Any], key: str) -> str:
        return as_text(values[key]) if key in values else "nothing"

    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key}: {value(now, key)}, was {value(before, key)}" for key in keys]


def describe(found: Sequence[str]) -> str:
    """The first of some differences, and how many more there are."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"({'; '.join(found[:SHOWN])}{more})"
