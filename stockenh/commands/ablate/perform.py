"""What a cell does besides training: forecasts with noisy views, a search, the measurement of costs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stockenh.commands.ablate.cells import CellSource, override_key
from stockenh.commands.ablate.cost import measure
from stockenh.commands.ablate.plan import Cell
from stockenh.commands.sweep.spec import SweepFolder
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.schema import RunConfig, parse
from stockenh.errors import StockenhError
from stockenh.evaluation.metrics import calibration_metrics, part_metrics, with_limits
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import forecast
from stockenh.storage.run_folder import RunFolder

STOP_SECONDS = 60.0  # for a search to save where it is


def with_views(folder: RunFolder, device: torch.device) -> dict[str, Any]:
    """{"h3": {...}, ...} of a finished run's forecasts of its test part, averaged over noisy views.

    The scores are of the model's own probabilities, as those of a run are, with the calibrated ones beside.
    """
    trained = Trained.open(folder, None)
    prepared = build.data(trained.run, device)
    ready, fitted = trained.ready(prepared, device)
    net, rows, views = trained.net(prepared, device), prepared.rows["test"], build.views(trained.run)
    windows, labels = prepared.windows, prepared.windows.y_ret[rows]
    plainly = Calibration.identity(len(windows.horizons))
    own = forecast(net, ready, rows, fitted, plainly, views)
    calibrated = forecast(net, ready, rows, fitted, trained.calibration, views)
    scores = part_metrics(own.ret, own.up_prob, labels, windows.asof[rows], windows.horizons, resamples=0)
    if windows.best_prob is not None:
        scores = with_limits(scores, windows.best_prob[rows], labels)
    more = calibration_metrics(own.up_prob, calibrated.up_prob, labels, windows.horizons)
    return {horizon: {**own, **more[horizon]} for horizon, own in scores.items()}


def costs(config: RunConfig, source: CellSource, device: torch.device) -> dict[str, Any]:
    """What all recipes of an ablation cost beside the plain one."""
    configs = {name: parse(raw) for name, raw in source.configs.items()}
    prepared = build.data(config, device)
    kept = [r for r in source.plan.recipes if r.kind == "train" and not r.name.startswith("without_")]
    rows = [row for row in source.plan.rows if row.recipe in configs and not row.name.startswith("without_")]
    found = measure(configs, [recipe.name for recipe in kept], rows, prepared.spec, device, source.rounds)
    return {**found, "train_windows": len(prepared.rows["train"])}


def search(cell: Cell, source: CellSource, directory: Path) -> dict[str, Any]:
    """The best trial's scores of a search in a process of its own, each trial as long as a plain run.

    A stopped one is resumed. Raises StockenhError where it failed.
    """
    assert cell.recipe is not None
    folder = SweepFolder(directory / "search")
    own = [
        "sweep=base", "hydra/sweeper=stockenh_optuna", f"train.epochs={source.epochs}", f"seed={cell.seed}",
        f"hydra.sweep.dir={folder.path}", *cell.recipe.overrides,
    ]  # fmt: skip
    own_keys = {override_key(override) for override in own}
    shared = [
        a
        for a in source.arguments
        if override_key(a) not in own_keys and not override_key(a).startswith(("hydra", "ablate."))
    ]
    _run([sys.executable, "-m", "stockenh", "sweep", *source.flags, *shared, *own], directory / "search.log")
    looks = folder.read().get("test", [])
    if not looks:
        raise StockenhError(f"{folder.path}: the search has no best trial that was judged on the test part")
    best = looks[-1]
    trials = [run for run in directory.glob("search/*/summary.json")]
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
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()  # its workers die with it
            raise
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise StockenhError(f"the search ended with exit code {code}: {lines[-1] if lines else 'no output'}")
