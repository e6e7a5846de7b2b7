"""TensorBoard: event files below each run's folder. `tensorboard --logdir outputs` shows all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockenh.report.trackers import Description, Figures, Result, Sent, Tracker, TrackerSettings

FOLDER = "tensorboard"


@dataclass(frozen=True)
class TensorboardTracker(TrackerSettings):
    """Where the event files lie. dir: None: in each run's own folder; else a folder per run below it."""

    name = package = "tensorboard"

    dir: str | None = None

    def open(self) -> Tracker:
        return _EventFiles(None if self.dir is None else Path(self.dir).expanduser().absolute())


class _EventFiles:
    """The event files of one run. A run that goes on has one more, which hides what the others have of the
    epochs that it writes again."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.writer: Any = None

    def start(self, run: Description, sent: Sent) -> Sent:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / FOLDER if self.root is None else self.root / _path(run)
        has_files = any(folder.glob("events.out.tfevents.*"))
        known = sent if has_files else Sent()
        if has_files and not run.is_live and known.status is not None:
            return known
        folder.mkdir(parents=True, exist_ok=True)
        purge = known.epoch + 1 if has_files else None
        self.writer = SummaryWriter(str(folder), purge_step=purge)
        if run.params and known.epoch == 0:
            self.writer.add_text("config", _table(run.params), 0, walltime=run.started)
            self.writer.add_text("run", _table(run.tags), 0, walltime=run.started)
        self.writer.flush()
        return known

    def log(self, epoch: int, figures: Figures, at: float) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, epoch, walltime=at)
        self.writer.flush()

    def finish(self, result: Result) -> None:
        for name, value in result.figures.items():
            self.writer.add_scalar(name, value, result.epoch, walltime=result.ended)
        status = f"{result.status}, pruned" if result.is_pruned else result.status
        self.writer.add_text("status", status, result.epoch, walltime=result.ended)
        self.writer.close()


def _path(run: Description) -> Path:
    """A folder per run, those of one parent within one: named by ids, which no folder of a run decides."""
    own = Path(f"{_word(run.name)}-{run.id[:8]}")
    return own if run.parent is None else _path(run.parent) / own


def _word(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:100]


def _table(values: Mapping[str, str]) -> str:
    """A table in Markdown."""
    rows = (f"| {key} | {value.replace('|', '&#124;')} |" for key, value in values.items())
    return "\n".join(["| key | value |", "|---|---|", *rows])
