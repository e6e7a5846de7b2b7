"""The folder of a multirun: the command that began it, and what it knows besides its runs."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stockenh.errors import RunFolderError
from stockenh.files import write_json
from stockenh.terminal import program

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
