"""The weights that a run begins with where it goes on from another (`init_from=RUN`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stockenh import build
from stockenh.build import Prepared
from stockenh.config import WEIGHTS
from stockenh.errors import RunFolderError
from stockenh.runfolder import RunFolder


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

    def put_into(self, net: nn.Module, prepared: Prepared) -> None:
        """Sets a model's weights. Raises RunFolderError where names, shapes or context features differ."""
        build.fitted_of(self.source, prepared)
        if why := _difference(net.state_dict(), self.tensors):
            raise RunFolderError(
                f"init_from={self.source}: its {self.name} weights are another model's: {why}"
            )
        net.load_state_dict(self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"run": str(self.source), "weights": self.name, "sha256": self.sha256}


def begin(init_from: str | None, weights: str | None, folder: RunFolder) -> Start | None:
    """What a run begins with; None: its own initial weights, or a checkpoint that it has already written.

    Raises RunFolderError where the source is not to be had, or not what the run first began with.
    """
    if init_from is None or folder.last.exists():
        return None
    known = _recorded(folder)
    try:
        start = Start.read(RunFolder(Path(init_from)), known.get("weights", weights))
    except RunFolderError as error:
        if not known:
            raise
        raise RunFolderError(
            f"{folder} stopped before its first checkpoint and would begin again. {error}"
        ) from None
    if known and known != start.to_dict():
        raise RunFolderError(
            f"init_from={init_from} has changed since {folder} began, which has no checkpoint yet: train anew"
        )
    return start


def _recorded(folder: RunFolder) -> dict[str, Any]:
    """What the manifest of a run that has begun says of its start; empty where it says nothing."""
    manifest = folder.read_json(folder.manifest) if folder.manifest.exists() else {}
    known = manifest.get("init_from") if isinstance(manifest, dict) else None
    if known is None:
        return {}
    if not isinstance(known, dict) or known.get("weights") not in WEIGHTS:
        raise RunFolderError(f"{folder.manifest} does not say what the run began with")
    return known


def _difference(own: dict[str, Tensor], others: dict[str, Tensor]) -> str | None:
    """The first tensor by which two models differ, in words."""
    for name in sorted(own.keys() | others.keys()):
        there = _shape(others[name]) if name in others else "missing"
        here = _shape(own[name]) if name in own else "missing"
        if there != here:
            return f"{name} is {there} there and {here} in this run"
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
