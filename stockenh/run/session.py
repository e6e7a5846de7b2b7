"""What a run works with while it lasts, and how it forecasts and scores a part of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stockenh.analysis.limit import with_limits
from stockenh.analysis.metrics import part_metrics
from stockenh.build import Prepared
from stockenh.config import RunConfig
from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.runfolder import RunFolder
from stockenh.training.objective import Objective
from stockenh.training.precision import resolve
from stockenh.training.predict import Predictions, predict
from stockenh.training.threads import default_threads


def settled(config: RunConfig, net: nn.Module, on: torch.device) -> RunConfig:
    """The config with precision and threads decided, so that whoever goes on from it computes the same."""
    precision = resolve(config.train.precision, on, net)
    threads = config.threads or default_threads(net)
    raw = {**config.raw, "threads": threads, "train": {**config.raw["train"], "precision": precision}}
    return replace(config, threads=threads, train=replace(config.train, precision=precision), raw=raw)


@dataclass(frozen=True)
class Session:
    """What a run works with: its config, folder and data, ready on its device."""

    config: RunConfig
    folder: RunFolder
    prepared: Prepared
    fitted: Fitted
    ready: ReadyWindows
    device: torch.device
    precision: str

    def forecast(self, net: nn.Module, part: str, objective: Objective | None = None) -> Predictions:
        """The model's predictions for one part."""
        return predict(net, self.ready, self.prepared.rows[part], self.fitted, objective)

    def validation(self, net: nn.Module, objective: Objective) -> dict[str, Any]:
        """{"loss": ..., "h3": {...}, ...}; the loss is None where the split has no validation part."""
        if "val" not in self.prepared.rows:
            return {"loss": None}
        forecast = self.forecast(net, "val", objective)
        return {"loss": forecast.loss, **self.scores(forecast, "val", resamples=0)}

    def labels(self, part: str) -> NDArray[np.float32]:
        """(k, H) returns of one part, NaN where there is no label."""
        return self.prepared.windows.y_ret[self.prepared.rows[part]]

    def scores(self, forecast: Predictions, part: str, resamples: int) -> dict[str, Any]:
        """{"h3": {...}, ...} of one part; intervals take `resamples` bootstrap samples, 0 leaves them out.

        Where the best possible forecast is known, what it would score stands beside.
        """
        rows, windows, y_ret = self.prepared.rows[part], self.prepared.windows, self.labels(part)
        scores = part_metrics(
            forecast.ret,
            forecast.up_prob,
            y_ret,
            windows.asof[rows],
            windows.horizons,
            resamples=resamples,
        )
        if windows.best_prob is None:
            return scores
        return with_limits(scores, windows.best_prob[rows], y_ret)
