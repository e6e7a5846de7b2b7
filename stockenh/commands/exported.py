"""The files that `stockenh export` left of a run, checked and ready to forecast."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from stockenh.commands.ensembles import NAME
from stockenh.commands.trained import Trained
from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment
from stockenh.data.windows import Windows
from stockenh.errors import ConfigError, RunFolderError
from stockenh.inference.ensemble import MEMBERS
from stockenh.inference.export import INT8, ONNX, OnnxModel
from stockenh.inference.predict import of_members
from stockenh.report.terminal import program
from stockenh.storage.untrusted import is_file, read_bytes

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
    fitted: Fitted

    def __call__(
        self, rows: Tensor, augment: Augment, together: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """See `stockenh.inference.predict.Engine`."""
        index = rows.numpy()
        inputs: dict[str, NDArray[Any]] = {
            self.model.prices: self.data.prices.raw(rows, augment).numpy(),
            "context": np.tile(self.windows.context[index], (together, 1)),
        }
        if self.embedding.shape[1]:
            inputs["embedding"] = np.tile(self.embedding[index].astype(np.float32), (together, 1))
        if self.fitted.categories:
            inputs["category"] = np.tile(self.fitted.indices(self.windows, index), (together, 1))
        out = self.model(inputs)
        shape = (together, len(index), len(self.windows.horizons))
        try:
            ret, up_prob = (out[name].reshape(shape).astype(np.float64) for name in ("ret", "up_prob"))
        except (KeyError, ValueError):
            raise RunFolderError(f"{self.model.path} does not forecast these horizons") from None
        each = of_members(out[MEMBERS].astype(np.float64), together) if MEMBERS in out else up_prob
        return ret, up_prob, each


def exported_model(trained: Trained, engine: str) -> OnnxModel:
    """The file that `stockenh export` left in the run's folder for these weights.

    Raises RunFolderError where there is none, or it is of other weights, or was changed.
    """
    directory, name = trained.exported, FILES[engine]
    if directory is None:
        raise ConfigError(
            f"tta.engine={engine}: several runs have no export in common; train them as one with "
            f"train.members, or distil them into one student"
        )
    weights = "" if trained.name == NAME else f" weights={trained.name}"
    more = " export.int8=true" if engine == "int8" else ""
    again = f"{program()} export run={trained.source}{weights}{more}"
    path = directory / name
    if not is_file(path):
        raise RunFolderError(f"tta.engine={engine}: {path} is not there; make it with {again}")
    manifest = trained.folder.read_json(directory / "manifest.json", ExportManifest)
    if manifest["sha256"] != trained.to_dict()["sha256"]:
        raise RunFolderError(f"{path} is of other weights than {trained.name}; make it anew with {again}")
    known = manifest["files"].get(name)
    content = read_bytes(path)
    if known is None or known["sha256"] != hashlib.sha256(content).hexdigest():
        raise RunFolderError(f"{path} is not the file that was exported; make it anew with {again}")
    return OnnxModel(path, torch.get_num_threads(), content)
