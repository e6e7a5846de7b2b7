"""What a cell does besides training: forecasts with noisy views, a search, the measurement of costs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stockenh.commands.ablate.cells import CellSource, key_of
from stockenh.commands.ablate.cost import measure
from stockenh.commands.ablate.plan import Cell
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.schema import RunConfig, parse
from stockenh.errors import StockenhError
from stockenh.evaluation.metrics import calibration_metrics, part_metrics, with_limits
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import forecast
from stockenh.storage.run_folder import RunFolder

STOP_SECONDS = 60.0  # for a search to save where it is


def with_views(folder: RunFolder, on: torch.device) -> dict[str, Any]:
    """{"h3": {...}, ...} of a finished run's forecasts of its test part, averaged over noisy views.

    The scores are of the model's own probabilities, as those of a run are, with the calibrated ones beside.
    """
    trained = Trained.open(folder, None)
    prepared = build.data(trained.run, on)
    ready, fitted = trained.ready(prepared, on)
    net, rows, views = trained.net(prepared, on), prepared.rows["test"], build.views(trained.run)
    windows, labels = prepared.windows, prepared.windows.y_ret[rows]
    plainly = Calibration.identity(len(windows.horizons))
    own = forecast(net, ready, rows, fitted, plainly, views)
    calibrated = forecast(net, ready, rows, fitted, trained.calibration, views)
    scores = part_metrics(own.ret, own.up_prob, labels, windows.asof[rows], windows.horizons, resamples=0)
    if windows.best_prob is not None:
        scores = with_limits(scores, windows.best_prob[rows], labels)
    more = calibration_metrics(own.up_prob, calibrated.up_prob, labels, windows.horizons)
    return {horizon: {**of, **more[horizon]} for horizon, of in scores.items()}


def costs(config: RunConfig, source: CellSource, on: torch.device) -> dict[str, Any]:
    """What all recipes of an ablation cost beside the plain one."""
    configs = {name: parse(raw) for name, raw in source.configs.items()}
    prepared = build.data(config, on)
    kept = [r for r in source.plan.recipes if r.kind == "train" and not r.name.startswith("without_")]
    rows = [row for row in source.plan.rows if row.recipe in configs and not row.name.startswith("without_")]
    found = measure(configs, [recipe.name for recipe in kept], rows, prepared.spec, on, source.rounds)
    return {**found, "train_windows": len(prepared.rows["train"])}


def search(cell: Cell, source: CellSource, into: Path) -> dict[str, Any]:
    """A search of as many epochs a trial as a plain run has, in a process of its own; what its best scored.

    It goes on where it was stopped. Raises StockenhError where it failed.
    """
    assert cell.recipe is not None
    folder = SweepFolder(into / "search")
    own = [
        "sweep=base", "hydra/sweeper=stockenh_optuna", f"train.epochs={source.epochs}", f"seed={cell.seed}",
        f"hydra.sweep.dir={folder.path}", *cell.recipe.overrides,
    ]  # fmt: skip
    said = {key_of(override) for override in own}
    shared = [
        a
        for a in source.arguments
        if key_of(a) not in said and not key_of(a).startswith(("hydra", "ablate."))
    ]
    _run([sys.executable, "-m", "stockenh", "sweep", *source.flags, *shared, *own], into / "search.log")
    looked = folder.read().get("test", [])
    if not looked:
        raise StockenhError(f"{folder.path}: the search has no best trial that was judged on the test part")
    best = looked[-1]
    trials = [run for run in into.glob("search/*/summary.json")]
    epochs = sum(int(json.loads(path.read_text())["epochs"]) for path in trials)
    return {"test": best["scores"], "trial": best["trial"], "trials": len(trials), "epochs": epochs}


def _run(command: Sequence[str], log: Path) -> None:
    """Runs a command to its end; passes on a Ctrl-C and waits for it. Raises StockenhError."""
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            until = time.monotonic() + STOP_SECONDS
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise StockenhError(f"the search ended with exit code {code}: {lines[-1] if lines else 'no word'}")
