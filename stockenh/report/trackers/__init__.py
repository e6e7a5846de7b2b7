"""Trackers: services and files beside the run folder that show what a run writes into metrics.jsonl.

A tracker's settings are a `TrackerSettings`, and what they open is a `Tracker`. It may fail in any call, so
`tracked.Tracked` stands between it and the run. Its package is imported only where a run starts there.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from stockenh.errors import ConfigError

# Kinds of what other runs belong to.
GROUPS = ("sweep", "grid", "ensemble", "distillation")

Status = Literal["FINISHED", "KILLED", "FAILED"]
Figures = dict[str, float]
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Description:
    """What a tracker learns of a run when it starts.

    id:      32 hexadecimal digits that are this run's own, see `record`
    kind:    run, trial, job, member, student, student alone; of what only groups runs: sweep, grid,
             ensemble, distillation
    started: seconds since 1970
    parent:  what it is one of several runs of; its own parents and settings need not be known
    is_live: whether it runs now, and is not sent from an old folder
    """

    id: str
    name: str
    kind: str
    folder: Path
    started: float
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    parent: Description | None = None
    is_live: bool = True

    @property
    def groups(self) -> bool:
        """Whether other runs have it as their parent."""
        return self.kind in GROUPS

    @property
    def follows_its_runs(self) -> bool:
        """Whether nothing but its runs says how it ended: no command of its own stands above them."""
        return self.kind in ("grid", "distillation")


@dataclass(frozen=True)
class Sent:
    """What a tracker has of a run already: the last epoch, and how the run ended, None where it has not."""

    epoch: int = 0
    status: str | None = None


@dataclass(frozen=True)
class Result:
    """The end of a run. figures: of its summary; files: pictures and the report, below the run's folder."""

    status: Status
    figures: Mapping[str, float]
    files: Sequence[Path]
    epoch: int
    ended: float  # seconds since 1970
    is_pruned: bool = False


class Tracker(Protocol):
    """One run at a tracker. Every method may raise anything."""

    def start(self, run: Description, sent: Sent) -> Sent:
        """Makes the run there, or finds the one of the same id; returns what it has already.

        sent: what this machine sent before, for a tracker that can't be asked
        """

    def log(self, epoch: int, figures: Figures, at: float) -> None:
        """The figures of an epoch; at: seconds since 1970."""

    def finish(self, result: Result) -> None:
        """The run has ended."""


class NotTracked:
    """A run that no tracker follows: every method does nothing."""

    def __init__(self, warn: Warn = lambda text: None) -> None:
        self.warn = warn
        self.results: Figures = {}  # figures of the end that no summary.json has

    def start(self, describe: Callable[[], Description], lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """The run's folder is there. lines: of metrics.jsonl, of the epochs that are done already."""

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl is written."""

    def finish(self, status: Status) -> None:
        """The run has ended, and its summary and pictures are written."""


class TrackerSettings(ABC):
    """A tracker's address and names; a subclass is a frozen dataclass whose fields are those of its YAML."""

    name: ClassVar[str]  # its option: tracker=NAME
    package: ClassVar[str | None] = None  # what it needs installed, also the name of the extra

    def __post_init__(self) -> None:
        """Raises ConfigError where the package is missing."""
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            raise ConfigError(
                f"tracker={self.name} needs the package {self.package}: "
                f"pip install 'stockenh[{self.package}]'"
            )

    @abstractmethod
    def open(self) -> Tracker:
        """The tracker; connects to nothing yet."""

    def overrides(self) -> list[str]:
        """The words of the command line that give these settings again."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return [f"tracker={self.name}", *(f"tracker.{f.name}={getattr(self, f.name)}" for f in changed)]


@dataclass(frozen=True)
class NoTracker(TrackerSettings):
    """Nothing is sent anywhere."""

    name = "none"

    def open(self) -> Tracker:
        raise ConfigError("tracker=none sends nothing: name one, such as mlflow")

    def overrides(self) -> list[str]:
        return []


_SET: dict[str, int] = {}  # variables that `environment` has set, and how many blocks need each
_SET_LOCK = threading.Lock()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for a block, those that the user has not set: packages know no other way.

    Several threads may be in such blocks; the last one takes a variable away again.
    """
    with _SET_LOCK:
        own = [name for name in values if name in _SET or name not in os.environ]
        for name in own:
            os.environ[name] = values[name]
            _SET[name] = _SET.get(name, 0) + 1
    try:
        yield
    finally:
        with _SET_LOCK:
            for name in own:
                _SET[name] -= 1
                if not _SET[name]:
                    del _SET[name]
                    os.environ.pop(name, None)


MOST_FIGURES = 5000  # of a line, which may be untrusted


def figures_of(values: Mapping[str, Any], prefix: str = "") -> Figures:
    """The finite numbers within containers, by their path: {"val": {"h10": {"rank_ic": 0.1}}} gives
    {"val/h10/rank_ic": 0.1}."""
    found: Figures = {}
    for key, value in values.items():
        if len(found) >= MOST_FIGURES:
            break
        if isinstance(value, Mapping):
            found |= figures_of(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{key}"] = float(value)
    return found


def summary_figures(summary: Mapping[str, Any]) -> Figures:
    """The numbers of a summary.json: `summary/val_loss`, and of its parts `summary/test/h10/accuracy`."""
    parts = summary.get("parts")
    rest = {key: value for key, value in summary.items() if key != "parts"}
    return figures_of({**rest, **(parts if isinstance(parts, Mapping) else {})}, "summary/")
