"""The folder of a multirun: the command that began it, and what it knows besides its runs."""

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

WORKERS = "workers"  # where the locks of workers lie, and what they print


@dataclass(frozen=True)
class MultirunFolder(ABC):
    """Names of the files of one multirun.

    noun: what it is called; command: of stockenh, which makes it and goes on with it; file: that tells it
    """

    path: Path

    noun: ClassVar[str]
    command: ClassVar[str]
    file: ClassVar[str]

    @property
    def about(self) -> Path:
        """The command that began it, and what the multirun must remember."""
        return self.path / self.file

    @property
    def workers(self) -> Path:
        return self.path / WORKERS

    @abstractmethod
    def is_own(self, about: Mapping[str, Any]) -> bool:
        """Whether what is written there, besides the arguments, is what the command writes."""

    def read(self) -> dict[str, Any]:
        """What is known of the multirun. Raises RunFolderError where this is no folder of its kind."""
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
        """What to type to go on with it; flags: those that it was begun with, which are to be given again."""
        words = [f"resume={shlex.quote(str(self.path))}", *map(shlex.quote, flags)]
        return f"{program()} {self.command} {' '.join(words)}"


# Settings that change nothing of what a run finds.
IMMATERIAL = (
    "device",
    "threads",
    "cache_dir",
    "tta.",
    "export.",
    "explain.",
    "train.checkpoint_minutes",
    "train.resident",
)
SHOWN = 4  # differences that are told


def differences(
    known: Mapping[str, Any], now: Mapping[str, Any], said: Callable[[Any], str] = str
) -> list[str]:
    """`optimizer.lr: 0.0001, was 0.001` for each dotted key that differs; said: how a value is written."""

    def of(values: Mapping[str, Any], key: str) -> str:
        return said(values[key]) if key in values else "nothing"

    keys = [key for key in {**known, **now} if known.get(key) != now.get(key)]
    return [f"{key}: {of(now, key)}, was {of(known, key)}" for key in keys]


def told(found: Sequence[str]) -> str:
    """The first of some differences, and how many more there are."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"({'; '.join(found[:SHOWN])}{more})"
