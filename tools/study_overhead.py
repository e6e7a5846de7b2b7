"""What a study shared by several workers costs: trials whose objective takes no time, by number of workers.

    python tools/study_overhead.py [--storage URL] [--trials 200] [--workers 1,2,4,8] [--json FILE]

Each number of workers gets a study of its own: in the database, or without URL in a journal in a new folder.
The workers are processes that take, report and end trials as those of `stockenh sweep` do, without training.
Exit code 1 where a trial was lost, was run twice, or has another value than the one that its worker computed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from stockenh.commands.sweep.space import Space
from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import SharedStudy
from stockenh.commands.sweep.trials import StudySource
from stockenh.report.terminal import console

PARAMETERS = {
    "optimizer.lr": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "model.layers": {"type": "int", "low": 1, "high": 4},
    "model.patch": {"type": "categorical", "choices": [5, 10, 20]},
}
HOUR = 3600.0


def objective(overrides: Sequence[str]) -> float:
    """A figure of a trial's values that costs nothing."""
    values = dict(override.split("=") for override in overrides)
    return float(values["model.layers"]) + float(values["optimizer.lr"])


def work(settings: SweepConfig, folder: Path, ready: Barrier, answer: Connection) -> None:
    """A worker: ends trials until none is left; sends the value of each, when it began and
    ended, and its processor time."""
    source = StudySource(settings, folder, Space.of(PARAMETERS), {}, seed=0, deadline=time.time() + HOUR)
    source.open(f"{uuid.uuid4().hex}")
    ready.wait()
    began, busy, ran = time.time(), time.process_time(), []
    while (trial := source.take()) is not None:
        loss = objective(trial.overrides)
        trial.report(1, {"weights": "raw", "by_weights": {"raw": {"loss": loss}}})
        trial.complete({"epochs": 1, "seconds": 0.0}, {"loss": loss})
        ran.append((trial.number, loss))
    answer.send((ran, began, time.time(), time.process_time() - busy))


def measure(settings: SweepConfig, folder: Path, workers: int) -> dict[str, Any]:
    """Runs a new study by so many workers; its figures and what went wrong."""
    spawn = multiprocessing.get_context("spawn")
    study = SharedStudy(settings, folder)
    filling = time.perf_counter()
    study.fill()
    filling = time.perf_counter() - filling
    ready = spawn.Barrier(workers)
    pipes = [spawn.Pipe(duplex=False) for _ in range(workers)]
    processes = [spawn.Process(target=work, args=(settings, folder, ready, there)) for _, there in pipes]
    for process, (_, there) in zip(processes, pipes, strict=True):
        process.start()
        there.close()  # else nobody would see that the process ended early
    answers = [here.recv() for here, _ in pipes]
    for process in processes:
        process.join()
    ran = [trial for trials, *_ in answers for trial in trials]
    stored = {trial.number: trial for trial in study.trials()}
    if isinstance(study.storage, RDBStorage):
        study.storage.remove_session()
        study.storage.engine.dispose()
    numbers = [number for number, _ in ran]
    wall = max(end for _, _, end, _ in answers) - min(began for _, began, *_ in answers)
    return {
        "workers": workers,
        "trials": settings.n_trials,
        "fill_seconds": filling,
        "wall_seconds": wall,
        "trials_per_second": settings.n_trials / wall,
        "seconds_per_trial_of_a_worker": workers * wall / settings.n_trials,
        "processor_seconds_per_trial": sum(busy for *_, busy in answers) / settings.n_trials,
        "trials_of_each": sorted(len(trials) for trials, *_ in answers),
        "lost": sorted(set(range(settings.n_trials)) - set(numbers)),
        "twice": sorted({number for number in numbers if numbers.count(number) > 1}),
        "unfinished": [n for n, trial in stored.items() if trial.state != TrialState.COMPLETE],
        "wrong": [number for number, loss in ran if stored[number].value != loss],
        "stored": len(stored),
    }


def is_right(found: dict[str, Any]) -> bool:
    """Whether every trial was run once and is stored with its value."""
    bad = any(found[name] for name in ("lost", "twice", "unfinished", "wrong"))
    return not bad and found["stored"] == found["trials"]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--storage", help="a database's URL, as sweep.storage takes it")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument(
        "--sampler", default="TPESampler", help="of Optuna; RandomSampler costs nothing itself"
    )
    parser.add_argument("--json", type=Path, help="writes the figures there, too")
    options = parser.parse_args(arguments)
    out, all_found = console(), []
    for workers in map(int, options.workers.split(",")):
        settings = SweepConfig(n_trials=options.trials, n_workers=workers, storage=options.storage)
        settings = replace(
            settings, study=f"overhead-{uuid.uuid4().hex[:8]}", sampler={"name": options.sampler}
        )
        with tempfile.TemporaryDirectory() as folder:
            found = measure(settings, Path(folder), workers)
        all_found.append(found)
        out.print(
            f"{workers} workers: {found['trials']} trials in {found['wall_seconds']:.1f} s, "
            f"{found['trials_per_second']:.1f} a second, "
            f"{1000 * found['seconds_per_trial_of_a_worker']:.0f} ms of a worker each, of which "
            f"{1000 * found['processor_seconds_per_trial']:.0f} on a processor; "
            f"{'each run once' if is_right(found) else found}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(all_found, indent=2), encoding="utf-8")
    return int(not all(map(is_right, all_found)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
