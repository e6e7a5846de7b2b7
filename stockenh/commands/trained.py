"""A finished run loaded again: its trained weights, its data ready on a device, its exported files."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from typing_extensions import TypedDict

from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import Kind, RunConfig, config_of
from stockenh.data import INPUT_KEYS
from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment
from stockenh.data.targets import Target
from stockenh.data.windows import Windows
from stockenh.embedding import Embedding
from stockenh.errors import ConfigError, RunFolderError
from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.metrics import Metrics, part_metrics
from stockenh.inference.calibration import Calibration, read_calibrations
from stockenh.inference.conformal import Conformal, has_interval, read_conformals
from stockenh.inference.export import INT8, ONNX, OnnxModel
from stockenh.inference.predict import Predictions, predict
from stockenh.models.cpu.memory import default_threads
from stockenh.report.terminal import embedding_progress, program, show_data
from stockenh.storage.files import write_atomic
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file, read_bytes

Entry = TypeVar("Entry", bound=np.generic)

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


def evenly(rows: NDArray[Entry], count: int) -> NDArray[Entry]:
    """At most `count` of the rows, evenly spread, the first and the last among them."""
    if count >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def dates_of(asof: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Days where the times are whole days, else milliseconds, as a file shows them."""
    days = asof.astype("datetime64[D]")
    return days if (days == asof).all() else asof.astype("datetime64[ms]")


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Leaves a table as path.parquet and path.csv, whose text a spreadsheet does not take for formulas."""
    for suffix, write in ((".parquet", frame.write_parquet), (".csv", quoted(frame).write_csv)):
        content = io.BytesIO()
        write(content)
        write_atomic(path.with_name(path.name + suffix), content.getbuffer())


# Beginnings of a cell that spreadsheets execute (OWASP, CSV injection), full-width forms among them.
_FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"


def quoted(frame: pl.DataFrame) -> pl.DataFrame:
    """A table whose text cells and column names have an apostrophe before what would begin a formula."""
    text = pl.col(pl.String, pl.Categorical, pl.Enum).cast(pl.String)
    found = frame.with_columns(text.str.replace(f"({_FORMULA})", "'${1}"))
    return found.rename({name: f"'{name}" for name in frame.columns if re.match(_FORMULA, name)})


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

    def conformal(self) -> Conformal | None:
        """How quantiles become an interval; None where the run has none, as one of an earlier version."""
        if not has_interval(build.quantile_levels(self.run)) or not is_file(self.folder.conformal):
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

    def to_dict(self) -> dict[str, str]:
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
        require_same_weights(trained.folder, config.embedding)
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


FILES = {"onnx": ONNX, "int8": INT8}


class ExportedFile(TypedDict):
    """An exported file, in the export's manifest.json."""

    sha256: str


class ExportManifest(TypedDict):
    """What a forecast reads of the export's manifest.json."""

    sha256: str  # of the weights
    files: dict[str, ExportedFile]


@dataclass(frozen=True)
class OnnxEngine:
    """An exported file on windows of the CPU: raw windows and features in, calibrated forecasts out."""

    model: OnnxModel
    data: ReadyWindows
    windows: Windows
    embedding: NDArray[np.floating]

    def __call__(
        self, rows: Tensor, augment: Augment, together: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `stockenh.inference.predict.Engine`."""
        index = rows.numpy()
        inputs = {
            self.model.prices: self.data.prices.raw(rows, augment).numpy(),
            "context": np.tile(self.windows.context[index], (together, 1)),
        }
        if self.embedding.shape[1]:
            inputs["embedding"] = np.tile(self.embedding[index].astype(np.float32), (together, 1))
        out = self.model(inputs)
        shape = (together, len(index), len(self.windows.horizons))
        try:
            ret, up_prob = (out[name].reshape(shape).astype(np.float64) for name in ("ret", "up_prob"))
        except (KeyError, ValueError):
            raise RunFolderError(f"{self.model.path} does not forecast these horizons") from None
        return ret, up_prob


def exported_model(trained: Trained, engine: str) -> OnnxModel:
    """The file that `stockenh export` left in the run's folder for these weights.

    Raises RunFolderError where there is none, or it is of other weights, or was changed.
    """
    folder, name = trained.folder, FILES[engine]
    more = " export.int8=true" if engine == "int8" else ""
    again = f"{program()} export run={folder} weights={trained.name}{more}"
    path = folder.exported / name
    if not is_file(path):
        raise RunFolderError(f"tta.engine={engine}: {path} is not there; make it with {again}")
    manifest = folder.read_json(folder.exported / "manifest.json", ExportManifest)
    if manifest["sha256"] != trained.to_dict()["sha256"]:
        raise RunFolderError(f"{path} is of other weights than {trained.name}; make it anew with {again}")
    known = manifest["files"].get(name)
    content = read_bytes(path)
    if known is None or known["sha256"] != hashlib.sha256(content).hexdigest():
        raise RunFolderError(f"{path} is not the file that was exported; make it anew with {again}")
    return OnnxModel(path, torch.get_num_threads(), content)
