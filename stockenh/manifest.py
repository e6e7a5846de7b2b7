"""What a run was made with: versions, commit, data, device."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import stockenh

LIBRARIES = ("torch", "numpy", "polars", "scipy", "scikit-learn", "hydra-core", "omegaconf", "safetensors")


def manifest(
    data_digest: str,
    device: torch.device,
    precision: str,
    origins: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Plain values for manifest.json. origins: what else this run comes from, by its key of the config: other
    runs, and the weights behind the embedding."""
    return {
        "stockenh": stockenh.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "git_commit": _commit(),
        "data": data_digest,
        **origins,
        "warnings": list(warnings),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
