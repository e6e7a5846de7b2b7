"""What a tracker learns of a run: name, settings and place among other runs, from its folder and config."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

import stockenh
from stockenh.commands.runs.listing import flatten
from stockenh.config.schema import RunConfig
from stockenh.errors import printable_line
from stockenh.report.terminal import print_line
from stockenh.report.trackers import GROUPS, Description, NoTracker, NotTracked, Warn
from stockenh.report.trackers.record import derived_id, id_of
from stockenh.report.trackers.tracked import Tracked, following
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file

ALONE = "without_teacher"  # in a student's folder
MOST_LEVELS = 3  # of folders between a multirun's and that of its job
OF_PARENT = {"sweep": "trial", "grid": "job", "ensemble": "member", "distillation": "student"}


def warn_once(console: Console) -> Warn:
    """Prints the first of the warnings it gets."""
    warned: list[str] = []

    def warn(text: str) -> None:
        if not warned:
            print_line(console, f"tracker  {text}")
        warned.append(text)

    return warn


def track(config: RunConfig, warn: Warn) -> AbstractContextManager[NotTracked]:
    """What follows a run at its tracker, from its `start` to the end of the block."""
    from stockenh.training.stop import Interrupted

    settings = config.tracker
    is_off = isinstance(settings, NoTracker)
    tracked = NotTracked(warn) if is_off else Tracked(settings.name, settings.open, warn)
    return following(tracked, (Interrupted,))


def start_tracking(tracked: NotTracked, folder: RunFolder, config: RunConfig) -> None:
    """The folder of a run is made, or it goes on there."""
    raw = config.raw
    lines = folder.metric_lines()
    tracked.start(lambda: describe(folder.path, flatten(raw)), lines)


def describe(
    folder: Path, settings: Mapping[str, Any], kind: str | None = None, started: float | None = None
) -> Description:
    """A run, or with `kind` a sweep; settings: dotted keys, and groups by the name of their option.

    started: None where it runs now
    """
    parent = parent_of(folder, settings) if kind is None else None
    known = "student alone" if folder.name == ALONE else OF_PARENT[parent.kind] if parent else "run"
    if kind is None and (settings.get("train.members") or 1) != 1:
        kind = "ensemble"
    kind = kind or known
    return Description(
        id=id_of(folder, is_shared=kind in GROUPS),
        name=_name(folder, parent),
        kind=kind,
        folder=folder,
        started=time.time() if started is None else started,
        tags={
            "stockenh.run": _name(folder, parent),
            "stockenh.kind": kind,
            **{f"stockenh.{key}": _text(settings.get(key, "")).rstrip("*") for key in ("model", "data")},
            "stockenh.version": stockenh.__version__,
        },
        # an address may hold a password
        params={key: _text(value) for key, value in settings.items() if key.partition(".")[0] != "tracker"},
        parent=parent,
        is_live=started is None,
    )


def parent_of(folder: Path, settings: Mapping[str, Any]) -> Description | None:
    """The sweep, grid, ensemble or distillation that a run belongs to, by where its folder is."""
    folder = folder.absolute()
    above = list(folder.parents)
    if folder.name == ALONE and is_file(above[0] / "config.yaml"):
        return parent_of(above[0], {"teacher": ALONE})
    if above[0].name == "members" and is_file(above[1] / "config.yaml"):
        return _group(above[1], "ensemble")
    for place in above[:MOST_LEVELS]:
        if is_file(place / "multirun.yaml"):
            return _group(place, "sweep" if is_file(place / "sweep.json") else "grid")
    return _group(folder, "distillation") if settings.get("teacher") else None


def _group(folder: Path, kind: str) -> Description:
    own_parent = parent_of(folder, {}) if kind == "ensemble" else None
    found = derived_id(folder, kind) if kind == "distillation" else id_of(folder, is_shared=True)
    name = _name(folder, own_parent) + (" (distillation)" if kind == "distillation" else "")
    tags = {"stockenh.run": name, "stockenh.kind": kind, "stockenh.version": stockenh.__version__}
    return Description(found, name, kind, folder, time.time(), tags, parent=own_parent)


def _name(folder: Path, parent: Description | None) -> str:
    """`2026-11-28/18-48-55-123456`, and of a run within another folder's what it is called there besides."""
    folder = folder.absolute()
    if parent is not None and folder != parent.folder and folder.is_relative_to(parent.folder):
        return _text(f"{parent.name}/{folder.relative_to(parent.folder).as_posix()}")
    return _text("/".join(folder.parts[-2:]))


def _text(value: object) -> str:
    return printable_line(str(value))
