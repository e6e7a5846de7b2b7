"""`stockenh runs --to TRACKER`: sends old run folders, which may be untrusted, to a tracker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from stockenh.commands.multirun.folder import WORKERS
from stockenh.commands.runs.listing import Run
from stockenh.commands.tracking import describe
from stockenh.config.compose import compose
from stockenh.config.schema import group_settings, plain
from stockenh.errors import RunFolderError, StockenhError
from stockenh.report.terminal import print_line
from stockenh.report.trackers import Description, Status, TrackerSettings
from stockenh.report.trackers.record import id_of
from stockenh.report.trackers.tracked import Sending, reason_of, times_of
from stockenh.storage.files import DiskError, is_locked
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file, read_lines, require_plain_folder

WRITTEN_ONCE = (".hydra/overrides.yaml", "fitted.json", "manifest.json", "multirun.yaml")
WRITTEN_LAST = ("summary.json", "metrics.jsonl", "checkpoints/last.pt", "run.log", "report.md")


def tracker_of(name: str, words: Sequence[str]) -> TrackerSettings:
    """The settings of tracker=NAME with these overrides. Raises ConfigError."""
    node = plain(compose([f"tracker={name}", *words]))["tracker"]
    settings: TrackerSettings = group_settings("tracker", node)
    settings.open()
    return settings


def send(runs: Iterable[Run], tracker: TrackerSettings, console: Console) -> None:
    """Sends every run, and the sweeps of those that are trials. Raises StockenhError if the tracker fails."""
    chosen = sorted(runs, key=lambda run: run.path)
    sweeps = [s for s in dict.fromkeys(run.path.parent for run in chosen) if is_file(s / "sweep.json")]
    counts = {"sent": 0, "already there": 0}
    left_out: list[str] = []
    # one that still runs ends by itself; its trials that have ended are sent to the parent that it made
    for sweep in (s for s in sweeps if not any(map(is_locked, (s / WORKERS).glob("*.lock")))):
        counts[_send(_sweep_of(sweep), tracker, [], _status_of_sweep(sweep))] += 1
    for run in chosen:
        if run.state.startswith(("running", "never began", "damaged")):
            left_out.append(f"{run.path} ({run.state})")
            continue
        try:
            require_plain_folder(run.path, to_write=True)
            counts[_send_run(run, tracker)] += 1
        except (RunFolderError, DiskError) as error:
            left_out.append(str(error))
    for text in left_out:
        print_line(console, f"left out {text}")
    parts = ", ".join(f"{count} {what}" for what, count in counts.items())
    print_line(console, f"tracker={tracker.name}: {parts}, {len(left_out)} left out")


def _send_run(run: Run, tracker: TrackerSettings) -> str:
    folder = RunFolder(run.path)
    lines = folder.metric_lines()
    seconds = sum(s for line in lines if isinstance(s := line.get("seconds"), int | float) and s > 0)
    started, _ = _times(run.path, seconds)
    return _send(describe(run.path, run.config, started=started), tracker, lines, _status_of(run))


def _send(run: Description, tracker: TrackerSettings, lines: Sequence[dict[str, Any]], status: Status) -> str:
    _, ended = _times(run.folder, 0.0)
    try:
        sending = Sending(tracker.name, tracker.open(), run)
        last = max((e for line in lines if isinstance(e := line.get("epoch"), int)), default=0)
        if sending.known.status == status and sending.done >= last:
            return "already there"
        for line, at in zip(lines, times_of(lines, run.started, ended), strict=True):
            sending.log(line, at)
        sending.finish(status, {}, ended)
    except StockenhError:
        raise
    except Exception as error:
        raise StockenhError(f"tracker={tracker.name} failed at {run.folder}: {reason_of(error)}") from None
    return "sent"


def _sweep_of(folder: Path) -> Description:
    id_of(folder, is_shared=True)
    return describe(folder, {}, "sweep", _times(folder, 0.0)[0])


def _status_of_sweep(folder: Path) -> Status:
    """A search writes its report as it ends; a stop or a kill comes before that."""
    return "FINISHED" if is_file(folder / "report.md") else "KILLED"


def _status_of(run: Run) -> Status:
    """How a run that does not run now ended: what its log ends with tells a failure from a stop."""
    if run.state.startswith("finished"):
        return "FINISHED"
    records = [line for line in read_lines(run.path / "run.log") if line.startswith("[")]
    return "FAILED" if records and "][ERROR] " in records[-1] else "KILLED"


def _times(folder: Path, seconds: float) -> tuple[float, float]:
    """When a run began and ended, by the times of its files; it took at least the seconds of its training."""
    begun, last = ([*_modified(folder, names)] for names in (WRITTEN_ONCE, WRITTEN_LAST))
    ended = max(last or begun or [folder.lstat().st_mtime])
    return max(0.0, min([*begun, ended - seconds])), ended


def _modified(folder: Path, names: Iterable[str]) -> Iterable[float]:
    for name in names:
        with suppress(OSError):
            yield (folder / name).lstat().st_mtime
