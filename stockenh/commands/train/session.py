"""The parts of a run: config, folder and data, the weights that it starts with, and a teacher's answers."""

from __future__ import annotations

import hashlib
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
from stockenh.config.schema import WEIGHTS, Kind, RunConfig
from stockenh.data.batches import ReadyWindows, TeacherOutput
from stockenh.data.fitted import Fitted
from stockenh.errors import RunFolderError
from stockenh.evaluation.metrics import part_metrics, with_limits
from stockenh.inference.predict import Forecast, Predictions, predict
from stockenh.models.cpu.memory import default_threads, threads
from stockenh.storage.run_folder import RunFolder
from stockenh.training.precision import resolve
from stockenh.training.step import Objective


def settled(config: Kind, net: nn.Module, device: torch.device) -> Kind:
    """The config with precision and threads decided, so that a resumed run computes the same."""
    precision = resolve(config.train.precision, device, net)
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

    def scores(self, forecast: Predictions | Forecast, part: str, resamples: int) -> dict[str, Any]:
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


def teacher_origin(config: RunConfig) -> dict[str, str] | None:
    """The manifest's entry about the teacher; None without one."""
    if config.teacher is None:
        return None
    return Trained.open(RunFolder.open(Path(config.teacher)), config.weights).to_dict()


def teacher_answers(
    config: RunConfig,
    folder: RunFolder,
    prepared: Prepared,
    fitted: Fitted,
    device: torch.device,
    console: Console,
) -> TeacherOutput | None:
    """The teacher's answers for all windows, NaN outside train; None where there is no teacher.

    They are stored in the student's folder, so that it can be resumed or moved without the teacher.
    """
    if config.teacher is None:
        return None
    rows = prepared.rows["train"]
    if not folder.teacher_output.exists():
        teacher = Trained.open(RunFolder.open(Path(config.teacher)), config.weights)
        console.print(
            f"teacher  {teacher.name} weights of {teacher.folder} answer {len(rows):,} windows",
            soft_wrap=True, markup=False,
        )  # fmt: skip
        # building a network draws from the random state that the student's training starts from
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            given = ask(config, teacher, prepared, rows, device)
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
        ret=_spread(kept["ret"] / unit, rows, len(prepared.windows)).to(device),
        up_logits=_spread(kept["up_logits"], rows, len(prepared.windows)).to(device),
    )


def ask(
    config: RunConfig, teacher: Trained, prepared: Prepared, rows: np.ndarray, device: torch.device
) -> Predictions:
    """The teacher's predictions for these windows, in fp32 and evaluation mode, with its own statistics and
    its own embedding. Raises ConfigError where its inputs or labels are not those of the config."""
    teacher.require_inputs(config, "teacher")
    require_same_weights(teacher.folder, teacher.run.embedding)
    if not config.embedding.agrees_with(teacher.run.embedding):
        config_of_teacher = replace(config, embedding=teacher.run.embedding, model=teacher.run.model)
        prepared = build.data(config_of_teacher, device)
    net = teacher.net(prepared, device)
    ready, fitted = teacher.ready(prepared, device)
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


@dataclass(frozen=True)
class Start:
    """Named weights of a finished run."""

    source: RunFolder
    name: str
    tensors: dict[str, Tensor]
    sha256: str

    @classmethod
    def read(cls, source: RunFolder, name: str | None) -> Start:
        """The weights called `name`; None: those that were chosen when the run was finished.

        Raises RunFolderError where the run is not finished or has no such weights.
        """
        if not source.config.is_file():
            raise RunFolderError(f"init_from={source}: no run folder is there")
        if not source.summary.is_file():
            raise RunFolderError(f"init_from={source}: the run is not finished, so it has no weights yet")
        name = source.chosen_weights(name)
        tensors = source.read_weights(name)
        return cls(source, name, tensors, hashlib.sha256(source.weights(name).read_bytes()).hexdigest())

    def load_into(self, net: nn.Module, prepared: Prepared) -> None:
        """Sets a model's weights. Raises RunFolderError where names, shapes or context features differ."""
        build.fitted_of(self.source, prepared)
        if why := _difference(net.state_dict(), self.tensors):
            raise RunFolderError(
                f"init_from={self.source}: its {self.name} weights are another model's: {why}"
            )
        net.load_state_dict(self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {"run": str(self.source), "weights": self.name, "sha256": self.sha256}


def initial_weights(init_from: str | None, weights: str | None, folder: RunFolder | None) -> Start | None:
    """The weights that a run starts with; None: fresh ones, or those of its own checkpoint.

    folder: of the run, None where it is not made yet. Raises RunFolderError where the source is missing or
    has changed since the run first started.
    """
    if init_from is None or (folder is not None and folder.last.exists()):
        return None
    known = _recorded(folder) if folder is not None else {}
    try:
        start = Start.read(RunFolder(Path(init_from)), known.get("weights", weights))
    except RunFolderError as error:
        if not known:
            raise
        raise RunFolderError(
            f"{folder} stopped before its first checkpoint and would start again. {error}"
        ) from None
    if known and known != start.to_dict():
        raise RunFolderError(
            f"init_from={init_from} has changed since {folder} started, which has no checkpoint yet: train a "
            f"new run"
        )
    return start


def _recorded(folder: RunFolder) -> dict[str, Any]:
    """The manifest's entry about the initial weights; empty where there is none."""
    manifest = folder.read_json(folder.manifest) if folder.manifest.exists() else {}
    known = manifest.get("init_from") if isinstance(manifest, dict) else None
    if known is None:
        return {}
    if not isinstance(known, dict) or known.get("weights") not in WEIGHTS:
        raise RunFolderError(f"{folder.manifest} does not say which weights the run started with")
    return known


def _difference(own: dict[str, Tensor], others: dict[str, Tensor]) -> str | None:
    """A description of the first tensor by which two models differ."""
    for name in sorted(own.keys() | others.keys()):
        there = _shape(others[name]) if name in others else "missing"
        here = _shape(own[name]) if name in own else "missing"
        if there != here:
            return f"{name} is {there} there and {here} in this run"
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
