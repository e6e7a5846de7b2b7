"""What more noisy views bring on the test part of finished runs: the mean over runs, by the number of views.

    python tools/view_counts.py RUN...  # such as five runs that differ in their seed

Figures are of the middle horizon. Differences to the plain forecast are paired by run, with standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.data.prices import RawNoise
from stockenh.inference.predict import Views, forecast
from stockenh.storage.run_folder import RunFolder

COUNTS = (0, 1, 2, 4, 8, 16)
KEPT = 0.2  # share of the rows with the least spread
CPU = torch.device("cpu")


def figures(path: str) -> NDArray[np.float64]:
    """(len(COUNTS), 3) log loss, accuracy, and accuracy of the fifth with the least spread (NaN without)."""
    trained = Trained.open(RunFolder.open(Path(path)), None)
    prepared = build.data(trained.run, CPU)
    ready, fitted = trained.ready(prepared, CPU)
    net, rows = trained.net(prepared, CPU), prepared.rows["test"]
    middle = len(prepared.windows.horizons) // 2
    side = prepared.windows.direction[rows, middle]
    moved = np.isfinite(side) & (side != 0)
    up, found = side[moved] > 0, []
    tta = trained.run.tta
    for count in COUNTS:
        views = Views(count, RawNoise(tta.price, tta.volume), seed=trained.run.seed)
        forecasts = forecast(net, ready, rows, fitted, trained.calibration, views)
        prob = np.clip(forecasts.up_prob[moved, middle], 1e-12, 1 - 1e-12)
        right = (prob > 0.5) == up
        loss = -np.log(np.where(up, prob, 1 - prob)).mean()
        of_sure = np.nan
        if forecasts.uncertainty is not None:
            spread = forecasts.uncertainty[moved, middle]
            of_sure = right[np.argsort(spread, kind="stable")[: round(KEPT * len(spread))]].mean()
        found.append((loss, right.mean(), of_sure))
    return np.array(found)


def main(paths: list[str]) -> None:
    torch.set_num_threads(1)
    of_runs = np.stack([figures(path) for path in paths])
    gain = of_runs[:, :, :2] - of_runs[:, :1, :2]
    error = gain.std(0, ddof=1) / np.sqrt(len(paths)) if len(paths) > 1 else np.full(gain.shape[1:], np.nan)
    print("views  log loss (se)        points of accuracy (se)   of the fifth with the least spread, %")
    for at, count in enumerate(COUNTS):
        loss, points = gain.mean(0)[at]
        print(
            f"{count:5}  {loss:+.5f} ({error[at, 0]:.5f})   {100 * points:+.2f} ({100 * error[at, 1]:.2f})"
            f"   {100 * of_runs[:, at, 2].mean():24.1f}"
        )
    print(f"plain: log loss {of_runs[:, 0, 0].mean():.4f}, accuracy {100 * of_runs[:, 0, 1].mean():.1f}%")


if __name__ == "__main__":
    main(sys.argv[1:])
