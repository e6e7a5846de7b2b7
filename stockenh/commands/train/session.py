"""What a run works with while it lasts, and how it forecasts and scores a part of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from stockenh.commands.trained import Trained, require_same_weights
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import Kind, RunConfig
from stockenh.data.batches import ReadyWindows, TeacherOutput
from stockenh.data.fitted import Fitted
from stockenh.errors import RunFolderError
from stockenh.evaluation.metrics import part_metrics, with_limits
from stockenh.inference.predict import Predictions, predict
from stockenh.models.cpu.memory import default_threads, threads
from stockenh.storage.run_folder import RunFolder
from stockenh.training.precision import resolve
from stockenh.training.step import Objective


def settled(config: Kind, net: nn.Module, on: torch.device) -> Kind:
    """The config with precision and threads decided, so that whoever goes on from it computes the same."""
    precision = resolve(config.train.precision, on, net)
    threads = config.threads or default_threads(net)
    return replace(config, threads=threads, train=replace(config.train, precision=precision))


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


def answers(
    config: RunConfig, folder: RunFolder, prepared: Prepared, fitted: Fitted, on: torch.device, out: Console
) -> TeacherOutput | None:
    """The teacher's answers for all windows, NaN outside train; None where there is no teacher.

    A resumed or moved student finds them in its own folder and needs its teacher no more.
    """
    if config.teacher is None:
        return None
    rows = prepared.rows["train"]
    if not folder.teacher_output.exists():
        teacher = Trained.open(RunFolder.open(Path(config.teacher)), config.weights)
        out.print(
            f"teacher  {teacher.name} weights of {teacher.folder} answer {len(rows):,} windows",
            soft_wrap=True, markup=False,
        )  # fmt: skip
        # building a network draws from the random state that the student's training starts from
        with torch.random.fork_rng([on] if on.type == "cuda" else []):
            given = ask(config, teacher, prepared, rows, on)
        folder.write_tensors(
            folder.teacher_output,
            {
                "rows": torch.from_numpy(rows),
                "ret": torch.from_numpy(given.ret.astype(np.float32)),
                "up_logits": torch.from_numpy(given.up_logits.astype(np.float32)),
            },
        )
    kept = _read(folder, rows, len(prepared.windows.horizons))
    unit = torch.tensor(fitted.return_std)
    return TeacherOutput(
        ret=_spread(kept["ret"] / unit, rows, len(prepared.windows)).to(on),
        up_logits=_spread(kept["up_logits"], rows, len(prepared.windows)).to(on),
    )


def ask(
    config: RunConfig, teacher: Trained, prepared: Prepared, rows: np.ndarray, on: torch.device
) -> Predictions:
    """The teacher's predictions for these windows, in fp32 and evaluation mode, with its own statistics and
    its own embedding. Raises ConfigError where the config makes other labels or inputs than it knows."""
    teacher.require_inputs(config, "teacher")
    require_same_weights(teacher.folder, teacher.run.embedding)
    theirs = prepared
    if not config.embedding.agrees_with(teacher.run.embedding):
        theirs = build.data(replace(config, embedding=teacher.run.embedding, model=teacher.run.model), on)
    net = teacher.net(theirs, on)
    ready, fitted = teacher.ready(theirs, on)
    with threads(config.threads or default_threads(net)):
        return predict(net, ready, rows, fitted)


def _read(folder: RunFolder, rows: np.ndarray, horizons: int) -> dict[str, Tensor]:
    kept = folder.read_tensors(folder.teacher_output)
    shape = (len(rows), horizons)
    if (
        set(kept) != {"rows", "ret", "up_logits"}
        or any(kept[name].shape != shape or not kept[name].isfinite().all() for name in ("ret", "up_logits"))
        or not torch.equal(kept["rows"], torch.from_numpy(rows))
    ):
        raise RunFolderError(
            f"{folder.teacher_output} does not hold the teacher's answers to this run's windows"
        )
    return kept


def _spread(values: Tensor, rows: np.ndarray, windows: int) -> Tensor:
    full = torch.full((windows, values.shape[1]), torch.nan)
    full[torch.from_numpy(rows)] = values.float()
    return full
