"""The exported files of a run at work in a forecast."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.data.augment import Augment
from stockenh.data.batches import ReadyWindows
from stockenh.data.windows import Windows
from stockenh.errors import RunFolderError
from stockenh.export.files import INT8, ONNX, OnnxModel
from stockenh.run.trained import Trained
from stockenh.terminal import program

FILES = {"onnx": ONNX, "int8": INT8}


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
        """See `stockenh.tta.Engine`."""
        at = rows.numpy()
        inputs = {
            self.model.prices: self.data.prices.raw(rows, augment).numpy(),
            "context": np.tile(self.windows.context[at], (together, 1)),
        }
        if self.embedding.shape[1]:
            inputs["embedding"] = np.tile(self.embedding[at].astype(np.float32), (together, 1))
        out = self.model(inputs)
        shape = (together, len(at), -1)
        return out["ret"].reshape(shape).astype(np.float64), out["up_prob"].reshape(shape).astype(np.float64)


def exported_model(trained: Trained, engine: str) -> OnnxModel:
    """The file that `stockenh export` left in the run's folder for these very weights.

    Raises RunFolderError where there is none, or it is of other weights, or is not what was written.
    """
    folder, name = trained.folder, FILES[engine]
    more = " export.int8=true" if engine == "int8" else ""
    again = f"{program()} export run={folder} weights={trained.name}{more}"
    path = folder.exported / name
    if not path.is_file():
        raise RunFolderError(f"tta.engine={engine}: {path} is not there; make it with {again}")
    manifest = folder.read_json(folder.exported / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("sha256") != trained.to_dict()["sha256"]:
        raise RunFolderError(f"{path} is of other weights than {trained.name}; make it anew with {again}")
    files = manifest.get("files")
    known = files.get(name) if isinstance(files, dict) else None
    written = known.get("sha256") if isinstance(known, dict) else None
    if written != hashlib.sha256(path.read_bytes()).hexdigest():
        raise RunFolderError(f"{path} is not the file that was exported; make it anew with {again}")
    return OnnxModel(path, torch.get_num_threads())
