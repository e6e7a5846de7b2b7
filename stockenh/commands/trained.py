"""A finished run loaded again: its trained weights, its data ready on a device, its exported files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import Kind, RunConfig, config_of
from stockenh.data import INPUT_KEYS
from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.data.targets import Target
from stockenh.data.windows import Windows
from stockenh.embedding import Embedding
from stockenh.errors import ConfigError, RunFolderError
from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.metrics import Metrics, part_metrics
from stockenh.inference.calibration import Calibration, read_calibrations
from stockenh.inference.conformal import Conformal, has_interval, read_conformals
from stockenh.inference.predict import Confidence, Predictions, predict, read_confidences
from stockenh.models.cpu.memory import default_threads
from stockenh.report.terminal import embedding_progress, show_data
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file, read_bytes

_REMEDY = "name their folder with embedding.checkpoint=DIR (and embedding.tokenizer=DIR)"


def require_same_weights(folder: RunFolder, embedding: Embedding) -> None:
    """Compares them with the manifest's hashes. Raises RunFolderError saying what the run needs."""
    known = folder.read_manifest().get("embedding")
    if known is None:
        return
    needed = {part: of["sha256"] for part, of in known.items()}
    weights = ", ".join(_origin(part, of["from"], of["revision"], of["sha256"]) for part, of in known.items())
    try:
        found = embedding.provenance() or {}
    except ConfigError as error:
        raise RunFolderError(f"{error}. {folder} needs {weights}: {_REMEDY}") from None
    if {part: of["sha256"] for part, of in found.items()} != needed:
        raise RunFolderError(f"the embedding's weights are not those of {folder}, {weights}: {_REMEDY}")


def described(target: Target) -> str:
    """A target as overrides would pick it."""
    settings = (f"target.{key}={value}" for key, value in vars(target).items())
    return " ".join((f"target={target.name}", *settings))


def is_data_of(folder: RunFolder, windows: Windows) -> bool:
    """Whether these are the data that the folder's run was trained on, by its manifest."""
    return folder.read_manifest()["data"] == windows.digest()


def _origin(part: str, where: str, revision: str | None, sha256: str) -> str:
    version = f" at revision {revision}" if revision else ""
    return f"the {part} of {where}{version} (sha256 {sha256[:16]}...)"


@dataclass(frozen=True)
class Trained:
    """Named weights, the config that they were trained with, and what was fitted for them."""

    run: RunConfig
    folder: RunFolder
    name: str
    calibration: Calibration
    held_out: bool  # whether there was a validation part to fit the calibration on

    @classmethod
    def open(cls, folder: RunFolder, name: str | None) -> Trained:
        """The weights called `name`, or those that the run chose. Raises RunFolderError."""
        folder.require_finished()
        run = config_of(folder)
        chosen = folder.chosen_weights(name)
        horizons = len(run.data.horizons)
        calibrations = read_calibrations(folder.read_json(folder.calibration), horizons)
        if "val" not in run.split.parts:
            return cls(run, folder, chosen, Calibration.identity(horizons), held_out=False)
        if chosen not in calibrations:
            raise RunFolderError(f"{folder.calibration} says nothing of the {chosen} weights")
        return cls(run, folder, chosen, calibrations[chosen], held_out=True)

    def require_inputs(self, config: RunConfig, key: str, groups: tuple[str, ...] = ()) -> None:
        """Raises ConfigError where a config makes other inputs or labels than these weights know, or where
        one of the groups is another than the run's. key: what names this run on the command line."""
        for name in INPUT_KEYS:
            wanted, known = (getattr(c.data, name, None) for c in (config, self.run))
            if wanted is not None and known is not None and wanted != known:
                raise ConfigError(
                    f"data.{name}={wanted}: {key}={self.folder} was trained with {known}; "
                    f"train another run for these"
                )
        if config.target != self.run.target:
            raise ConfigError(
                f"{described(config.target)}: {key}={self.folder} was trained with "
                f"{described(self.run.target)}; its forecasts are of that target"
            )
        same = {
            "model": config.model == self.run.model,
            "embedding": config.embedding.agrees_with(self.run.embedding),
        }
        for group in groups:
            if not same[group]:
                raise ConfigError(f"{group} can't be other than that of {key}={self.folder}: leave it out")

    def require_embedding(self, embedding: Embedding) -> None:
        """Raises RunFolderError where an embedding's weights are not those of the run."""
        require_same_weights(self.folder, embedding)

    @property
    def source(self) -> str:
        """What `run=` names."""
        return str(self.folder)

    @property
    def title(self) -> str:
        """Which weights, and how their probabilities are calibrated, in words."""
        calibrated = "calibrated" if self.held_out else "not calibrated: the run held nothing out"
        return f"{self.name} weights, {calibrated}"

    @property
    def shifts_probabilities(self) -> bool:
        """Whether the logits may be shifted: by the run's own loss, or by that of the teacher it follows."""
        return shifts_probabilities(self.run, self.folder)

    @property
    def size(self) -> int:
        """Bytes of the file of the weights."""
        return self.folder.weights(self.name).stat().st_size

    @property
    def exported(self) -> Path | None:
        """Where `stockenh export` leaves its files; None where no folder is the forecaster's own."""
        return self.folder.exported

    def confidence(self) -> Confidence | None:
        """Margins on the validation part; None where the run has none."""
        if not self.held_out:
            return None
        horizons = len(self.calibration.temperature)
        return read_confidences(self.folder.read_json(self.folder.confidence), horizons).get(self.name)

    def test_scores(self) -> dict[str, Any]:
        """{"h3": {...}, ...} of these weights on the run's own test part; empty where it has none of them."""
        summary = self.folder.read_summary()
        return dict(summary["parts"].get("test", {})) if summary["weights"] == self.name else {}

    def seen_symbols(self) -> set[str] | None:
        """The symbols of the train part; None where an earlier version trained the run."""
        found = self.folder.read_summary().get("symbols")
        return None if found is None else set(found)

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Of the quantiles that it forecasts; empty where it forecasts none."""
        return build.quantile_levels(self.run)

    def conformal(self) -> Conformal | None:
        """How quantiles become an interval; None where the run has none, as one of an earlier version."""
        if not has_interval(self.quantile_levels) or not is_file(self.folder.conformal):
            return None
        horizons = len(self.run.data.horizons)
        return read_conformals(self.folder.read_json(self.folder.conformal), horizons).get(self.name)

    def net(self, prepared: Prepared, device: torch.device) -> nn.Module:
        """The model with these weights, in evaluation mode."""
        return build.trained_model(self.run, prepared, self.folder, self.name, device)

    def ready(self, prepared: Prepared, device: torch.device) -> tuple[ReadyWindows, Fitted]:
        """The windows ready for a device, standardised by the run's own statistics, and these."""
        fitted = build.fitted_of(self.folder, prepared)
        placement = build.placement(self.run, prepared, device)
        return placement.place(prepared.windows, prepared.embedding, fitted, device), fitted

    def to_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        content = read_bytes(self.folder.weights(self.name))
        return {
            "run": str(self.folder.path.absolute()),
            "weights": self.name,
            "sha256": hashlib.sha256(content).hexdigest(),
        }


@dataclass(frozen=True)
class LoadedRun(Generic[Kind]):
    """A finished run with its data ready on a device. config: the run's, with the command line's settings."""

    config: Kind
    trained: Trained
    prepared: Prepared
    fitted: Fitted
    ready: ReadyWindows
    net: nn.Module
    device: torch.device

    @classmethod
    def load(cls, config: Kind, trained: Trained, device: torch.device, console: Console) -> LoadedRun[Kind]:
        """Reads and shows the data, and sets torch's threads. Raises ConfigError where the config has another
        model or embedding than the run."""
        trained.require_inputs(config, "run", ("model", "embedding"))
        trained.require_embedding(config.embedding)
        with embedding_progress(console) as watch:
            prepared = build.data(config, device, watch)
        show_data(prepared.windows, prepared.rows, prepared.findings, console)
        ready, fitted = trained.ready(prepared, device)
        net = trained.net(prepared, device)
        torch.set_num_threads(config.threads or default_threads(net))
        return cls(config, trained, prepared, fitted, ready, net, device)

    @property
    def held_out_part(self) -> str:
        """test, or train where the run held nothing out."""
        return "test" if "test" in self.prepared.rows else "train"

    def predict(self, rows: NDArray[np.int64]) -> Predictions:
        """The model's predictions for these windows."""
        return predict(self.net, self.ready, rows, self.fitted)

    def scores(self, ret: NDArray[np.floating], up_prob: NDArray[np.floating], rows: NDArray[np.int64],
               intervals: bool = True) -> dict[str, Metrics]:  # fmt: skip
        """`part_metrics` of forecasts (n, H) for these windows."""
        w, resampling = self.prepared.windows, Resampling(seed=self.config.seed) if intervals else None
        y_ret, y_dir = w.y_ret[rows], w.direction[rows]
        return part_metrics(ret, up_prob, y_ret, w.asof[rows], w.horizons, resampling, y_dir)


def shifts_probabilities(config: RunConfig, folder: RunFolder) -> bool:
    """Whether the logits of a run may be shifted: by its own loss, or by that of the teacher it follows."""
    if config.teacher is None or config.distill.weight == 0:
        return config.loss.shifts_probabilities
    teacher = folder.read_manifest().get("teacher")
    return config.loss.shifts_probabilities or bool(teacher and teacher.get("shifts_probabilities"))
