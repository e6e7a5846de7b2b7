"""Checkpoints: plain containers and tensors, written whole or not at all, loaded without running code."""

from __future__ import annotations

import io
import logging
import pickle
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stockenh.errors import RunFolderError
from stockenh.storage.files import write_atomic
from stockenh.storage.run_folder import RunFolder
from stockenh.training.loop import Journal, Metrics, State
from stockenh.training.step import Learner

VERSION = 1

log = logging.getLogger(__name__)


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically. Raises DiskError, the old checkpoint untouched."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **content}, buffer)
    write_atomic(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU with `weights_only=True`.

    Raises RunFolderError where the file is cut short, holds objects, or is of another version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about odd pickles, which are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RunFolderError(
            f"{path} is damaged or holds more than tensors and plain values: refused, nothing in it was run"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise RunFolderError(f"{path} is cut short or damaged: it can't be loaded") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise RunFolderError(f"{path} is not a checkpoint of this version of stockenh")
    return content


def rng_state() -> dict[str, Any]:
    """The state of torch's random generators on this machine."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores the generators, those of GPUs only where their number is the same."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@dataclass
class FolderJournal(Journal):
    """Writes checkpoints and metrics. `last` holds all that a resume needs, `best` the best weights alone."""

    folder: RunFolder
    learner: Learner
    best_weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def best(self, name: str, state: State) -> None:
        self.folder.require_there()
        weights = self.learner.averages.named(self.learner.model)[name].state_dict()
        self.best_weights[name] = {k: v.detach().cpu().clone() for k, v in weights.items()}
        save(self.folder.best, {"weights": self.best_weights, "best": state.to_dict()["best"]})

    def epoch(self, line: Metrics, state: State) -> None:
        self.folder.require_there()
        self.folder.append_metrics(line)
        self.pause(state)
        losses = ("none" if line[k] is None else f"{line[k]:.5f}" for k in ("train_loss", "val_loss"))
        log.info(
            "epoch %d: train loss %s, validation loss %s, %.0f windows/s, %d steps skipped so far%s",
            line["epoch"],
            *losses,
            line["windows_per_second"],
            line["skipped"],
            ", best so far" if line["best"] else "",
        )

    def pause(self, state: State) -> None:
        self.folder.require_there()
        content: dict[str, Any] = {
            "state": state.to_dict(),
            "learner": self.learner.checkpoint(),
            "rng": rng_state(),
            "best_weights": self.best_weights,
        }
        save(self.folder.last, content)

    def resume(self) -> State:
        """The state of the last checkpoint, with everything restored; a fresh one where there is none.

        Raises RunFolderError where the checkpoint is damaged, hostile or of another model.
        """
        if not self.folder.last.exists():
            self.folder.rewind_metrics(0)
            return State()
        content = load(self.folder.last)
        try:
            self.learner.restore(content["learner"])
            state = State.from_dict(content["state"])
            self.best_weights.update(content["best_weights"])
            set_rng_state(content["rng"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            why = (str(error).splitlines() or [""])[0]
            raise RunFolderError(f"{self.folder.last} does not fit the run's config: {why}") from None
        self.folder.rewind_metrics(state.epoch)
        return state
