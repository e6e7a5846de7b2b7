"""Checkpoints: plain containers and tensors, written whole or not at all, loaded without running code."""

from __future__ import annotations

import io
import logging
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stockenh.errors import RunFolderError, StockenhError
from stockenh.storage.files import write_atomic
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file, read_bytes
from stockenh.training.loop import Journal, Metrics, State
from stockenh.training.step import Learner

VERSION = 1
MOST_SETTING = 1e30  # of an optimizer, such as a learning rate

log = logging.getLogger(__name__)


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically. Raises DiskError, the old checkpoint untouched."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **content}, buffer)
    write_atomic(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU with `weights_only=True`.

    Raises RunFolderError where the file is cut short, larger in memory than on disk, holds objects, or is of
    another version.
    """
    try:
        content = read_bytes(path)
        _require_plain_archive(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about odd pickles, which are refused below
            loaded: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _require_whole_tensors(loaded)
    except pickle.UnpicklingError:
        raise RunFolderError(
            f"{path} is damaged or holds more than tensors and plain values: refused, nothing in it was run"
        ) from None
    except StockenhError:
        raise
    except Exception:  # a damaged pickle can raise nearly anything
        raise RunFolderError(f"{path} is cut short or damaged: it can't be loaded") from None
    version = loaded.get("version") if isinstance(loaded, dict) else None
    if type(version) is not int or version != VERSION:
        raise RunFolderError(f"{path} is not a checkpoint of this version of stockenh")
    return dict(loaded)


# What the pickle of a checkpoint refers to: containers and tensors.
_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch(\.storage)? (\w+Storage|Size)"
)


def _require_plain_archive(content: bytes) -> None:
    """Raises UnpicklingError or BadZipFile where an archive is not as `torch.save` writes it.

    Nothing in it may be compressed, which a few bytes could make gigabytes of, and its pickle refers to
    containers and tensors only.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content):
            raise zipfile.BadZipFile("it is larger than the file")
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        for entry in pickles:
            for opcode, argument, _ in pickletools.genops(archive.read(entry)):
                if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                    raise pickle.UnpicklingError(opcode.name)
                if opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
                    raise pickle.UnpicklingError(str(argument))


def _require_whole_tensors(value: Any) -> None:
    """Raises UnpicklingError where a tensor is larger than its storage: a copy would take that memory."""
    if isinstance(value, Tensor):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise pickle.UnpicklingError("a tensor is larger than its storage")
    elif isinstance(value, dict):
        for part in value.values():
            _require_whole_tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _require_whole_tensors(part)


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's random generators on the CPU and on this device; other GPUs are not touched."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores the generators; that of a device only where the state is of its kind."""
    torch.set_rng_state(state["cpu"])
    own = state.get(device.type)
    if device.type == "cuda" and isinstance(own, list):  # version 0.1 kept the generators of all GPUs
        number = torch.cuda.current_device() if device.index is None else device.index
        own = own[number] if number < len(own) else None
    if device.type == "cuda" and own is not None:
        torch.cuda.set_rng_state(own, device)
    elif device.type == "mps" and own is not None:
        torch.mps.set_rng_state(own)


@contextmanager
def unchanged_rng(device: torch.device) -> Iterator[None]:
    """Restores the generators when the block ends."""
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state, device)


@dataclass
class FolderJournal(Journal):
    """Writes checkpoints and metrics. `last` holds all that a resume needs, `best` the best weights alone."""

    folder: RunFolder
    learner: Learner
    best_weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    written: Callable[[Metrics], None] = lambda line: None  # gets each line that metrics.jsonl got

    def best(self, name: str, state: State) -> None:
        self.folder.require_there()
        weights = self.learner.averages.named(self.learner.model)[name].state_dict()
        self.best_weights[name] = {k: v.detach().cpu().clone() for k, v in weights.items()}
        save(self.folder.best, {"weights": self.best_weights, "best": state.to_dict()["best"]})

    def epoch(self, line: Metrics, state: State) -> None:
        self.folder.require_there()
        self.folder.append_metrics(line)
        self.written(line)
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
            "rng": rng_state(self.learner.precision.device),
            "best_weights": self.best_weights,
        }
        save(self.folder.last, content)

    def resume(self) -> State:
        """The state of the last checkpoint, with everything restored; a fresh one where there is none.

        Raises RunFolderError where the checkpoint is damaged, hostile or of another model.
        """
        if not is_file(self.folder.last):
            self.folder.rewind_metrics(0)
            return State()
        content = load(self.folder.last)
        try:
            state = State.from_dict(content["state"])
            self._require_own(state, content)
            self.learner.restore(content["learner"])
            self.best_weights.update(content["best_weights"])
            set_rng_state(content["rng"], self.learner.precision.device)
        except Exception as error:  # a state that somebody made up can break anything
            why = (str(error).splitlines() or [""])[0]
            raise RunFolderError(f"{self.folder.last} does not fit the run's config: {why}") from None
        self.folder.rewind_metrics(state.epoch)
        return state

    def _require_own(self, state: State, content: dict[str, Any]) -> None:
        """Raises ValueError or RuntimeError where a checkpoint is not one of this learner.

        The names of weights are names of files.
        """
        own, given = self.learner.checkpoint(), content["learner"]
        for mine, other in zip(
            own["optimizer"]["param_groups"], given["optimizer"]["param_groups"], strict=True
        ):
            for key in mine.keys() & other.keys():  # versions of torch differ in what a group has
                _require_setting(other[key], mine[key], key)
        for part in own.keys() - {"optimizer"}:
            _require_like(given[part], own[part], part)
        for number, kept in given["optimizer"]["state"].items():
            for name, value in kept.items():
                shape = _parameter(self.learner, number).shape
                if not isinstance(value, Tensor) or (value.numel() != 1 and value.shape != shape):
                    raise ValueError(f"learner.optimizer.state.{number}.{name} has another shape")
        names = {"raw", *self.learner.averages.kept}
        if not {*state.best, *content["best_weights"]} <= names:
            raise ValueError(f"its weights are not {', '.join(sorted(names))}")
        for name, weights in content["best_weights"].items():
            _require_like(weights, own["model"], f"best_weights.{name}")


# Settings of an optimizer that depend on the device, which may be another one on resume.
_OF_DEVICE = ("foreach", "fused", "capturable")


def _require_setting(given: Any, own: Any, key: str) -> None:
    """Raises ValueError where a group's setting is not one that this optimizer could have left: numbers are
    finite, as a schedule sets them, and all else is the optimizer's own."""
    if key in _OF_DEVICE:
        fits = given is None or isinstance(given, bool)
    elif isinstance(own, int | float) and not isinstance(own, bool):
        fits = type(given) in (int, float) and abs(given) < MOST_SETTING
    elif isinstance(own, tuple) and key != "params":
        fits = isinstance(given, tuple | list) and len(given) == len(own)
        for one, mine in zip(given, own, strict=True) if fits else ():
            _require_setting(one, mine, key)
    else:
        fits = type(given) is type(own) and bool(given == own)
    if not fits:
        raise ValueError(f"optimizer.{key} is not of this run")


def _parameter(learner: Learner, number: int) -> Tensor:
    """The parameter of an optimizer's state, which numbers them in the order of its groups."""
    parameters: list[Tensor] = [p for group in learner.optimizer.param_groups for p in group["params"]]
    return parameters[number]


def _require_like(given: Any, own: Any, place: str) -> None:
    """Raises ValueError where a stored value has other keys, shapes or types than the learner's own.

    What the learner does not have yet (an empty container, None) may be anything of that kind.
    """
    if isinstance(own, Tensor):
        fits = isinstance(given, Tensor) and given.shape == own.shape
    elif isinstance(own, dict):
        fits = isinstance(given, dict) and (not own or given.keys() == own.keys())
    elif isinstance(own, list | tuple):
        fits = isinstance(given, list | tuple) and len(given) == len(own)
    else:
        numbers = isinstance(given, bool | int | float) and isinstance(own, bool | int | float)
        fits = given is None or own is None or numbers or type(given) is type(own)
    if not fits:
        raise ValueError(f"{place} is not of this run")
    inner = own.items() if isinstance(own, dict) else enumerate(own) if isinstance(own, list | tuple) else ()
    for key, value in inner:
        _require_like(given[key], value, f"{place}.{key}")
