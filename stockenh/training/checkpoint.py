"""Checkpoints: plain containers and tensors, written whole or not at all, loaded without running code."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from stockenh.errors import RunFolderError
from stockenh.files import write_atomic

VERSION = 1


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
            warnings.simplefilter("ignore")  # torch's remarks on odd pickles: they are refused below
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
    """Puts generators back; those of cards that are not here are left out."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
