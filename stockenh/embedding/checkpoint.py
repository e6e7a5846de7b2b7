"""Checkpoints of foundation models: how they are located, and how an untrusted one is read safely.

A checkpoint is a `config.json` and a `model.safetensors`, in a local folder or at a revision of a repository
on the Hugging Face Hub. Nothing else is opened: pickles can execute code.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from stockenh.errors import ConfigError, RunFolderError
from stockenh.storage.untrusted import parse_tensors, read_bytes

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

Shape = TypeVar("Shape")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LARGEST_CONFIG = 1 << 20  # bytes
_PICKLE_BEGINS = (b"\x80", b"PK\x03\x04")  # a bare pickle, and the archive that torch.save writes


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: a folder, or a Hub id with its revision.

    key: the setting that names it, for messages
    """

    key: str
    where: str
    revision: str | None

    def __str__(self) -> str:
        return f"{self.where}@{self.revision}" if self.revision else self.where

    def file(self, name: str) -> Path:
        """The path of one of its files, downloaded if necessary. Raises ConfigError if it is unavailable."""
        if self.revision is not None:
            return _from_hub(self, name)
        path = Path(self.where) / name
        if not path.is_file():
            raise ConfigError(self._missing(name))
        return path

    def sha256(self) -> str:
        """Of the weights."""
        path = self.file(WEIGHTS)
        try:
            about = path.stat()
            return _sha256(path, about.st_size, about.st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}") from None

    def _missing(self, name: str) -> str:
        folder = Path(self.where)
        if not folder.is_dir():
            return f"{self.key}={self.where}: no such folder"
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        if name == WEIGHTS and pickles:
            return (
                f"{self.key}={self.where}: {pickles[0]} is a pickle, can execute code and is not opened: "
                f"convert it to {WEIGHTS}"
            )
        return f"{self.key}={self.where}: the folder has no {name}; a checkpoint is {CONFIG} and {WEIGHTS}"


def locate(key: str, value: str, revision: str) -> Checkpoint:
    """The checkpoint that a setting names: an existing folder, else a Hub id. Raises ConfigError."""
    path = Path(value).expanduser()
    if value and path.is_dir():
        return Checkpoint(key, str(path), None)
    if _HUB_ID.fullmatch(value):
        if not revision:
            raise ConfigError(f"{key}={value} is a Hub id: give its revision too, a commit, tag or branch")
        return Checkpoint(key, value, revision)
    raise ConfigError(f"{key}={value}: no such folder, and not a Hub id such as NeoQuasar/Kronos-small")


def read_shape(checkpoint: Checkpoint, kind: type[Shape]) -> Shape:
    """A dataclass of bounded whole numbers, from `config.json`; its other keys are ignored.

    Raises ConfigError naming file and key.
    """
    path = checkpoint.file(CONFIG)
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ConfigError(f"{path} is too large to be a {CONFIG}")
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        value = " ".join(str(first["input"])[:40].split())
        shown = f" {'.'.join(map(str, first['loc']))}={value}:" if first["loc"] else ""
        if first["type"] == "missing":
            shown = f" {first['loc'][0]}: it is not the config of this kind of model:"
        raise ConfigError(f"{path}:{shown} {first['msg']}") from None


def load_weights(net: nn.Module, checkpoint: Checkpoint) -> None:
    """Strict load into a module, possibly on the meta device; weights become float32.

    Raises ConfigError where the file is damaged, not a safetensors file, or of another model.
    """
    path = checkpoint.file(WEIGHTS)
    try:
        content = read_bytes(path.resolve())  # the Hub's own cache has links
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except RunFolderError as error:
        raise ConfigError(str(error)) from None
    try:
        tensors = parse_tensors(content)
    except ValueError as error:
        if content.startswith(_PICKLE_BEGINS):
            danger = "it can execute code and is not opened: convert it"
            raise ConfigError(f"{path} is a pickle, not a safetensors file; {danger}") from None
        raise ConfigError(f"{path} is cut short or damaged ({error}); fetch it again") from None
    state = net.state_dict()
    if why := _difference(state, tensors):
        raise ConfigError(f"{path} does not fit its {CONFIG}: {why}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConfigError(f"{path}: {name} holds numbers that are not finite")
    net.load_state_dict({name: tensor.to(state[name].dtype) for name, tensor in tensors.items()}, assign=True)


def _difference(own: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> str | None:
    """The first tensor by which a file and the expected model differ, in words."""
    for name in sorted(own.keys() | given.keys()):
        if name not in given:
            return f"{name} is missing"
        if name not in own:
            return f"{name} is not part of this architecture"
        if own[name].shape != given[name].shape:
            found, expected = ("x".join(map(str, tensor.shape)) for tensor in (given[name], own[name]))
            return f"{name} is {found} where the config says {expected}"
        if own[name].is_floating_point() != given[name].is_floating_point():
            return f"{name} is of type {given[name].dtype}"
    return None


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, modified: int) -> str:
    """size, modified: part of the cache key, since the file may change."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_hub(checkpoint: Checkpoint, name: str) -> Path:
    setting = f"{checkpoint.key}={checkpoint.where}"
    local = f"fetch it elsewhere and name its folder: {checkpoint.key}=DIR with {CONFIG} and {WEIGHTS}"
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise ConfigError(
            f"{setting} is a Hub id (there is no such folder), and the Hub client is not installed: "
            f"pip install 'stockenh[kronos]', or {local}"
        ) from None
    try:
        return Path(hf_hub_download(checkpoint.where, name, revision=checkpoint.revision))
    except errors.GatedRepoError:
        reason = "the Hub requires a login (hf auth login) and acceptance of its terms"
        raise ConfigError(f"{setting}: {reason}") from None
    except errors.RepositoryNotFoundError:
        raise ConfigError(f"{setting}: no such folder here, and no such repository on the Hub") from None
    except errors.RevisionNotFoundError:
        key = "embedding.tokenizer_revision" if checkpoint.key.endswith("tokenizer") else "embedding.revision"
        raise ConfigError(
            f"{setting} has no revision {checkpoint.revision}: give one of its own with {key}=COMMIT"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        offline = "is not on this machine, and the Hub can't be reached: go online once"
        raise ConfigError(f"{setting}@{checkpoint.revision} {offline}, or {local}") from None
    except errors.EntryNotFoundError:
        raise ConfigError(f"{setting}@{checkpoint.revision} has no {name}: it can't be loaded") from None
    except (
        Exception
    ) as error:  # the client's errors of timeouts, servers, caches and transfers share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{setting}@{checkpoint.revision} can't be fetched ({reason}); {local}") from None
