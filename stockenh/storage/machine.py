"""The machine: what its devices support, their free memory, and the manifest of a run made on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

import stockenh


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively; others emulate it slowly."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch answers for the current GPU
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def lacks_compiler(device: torch.device) -> str | None:
    """Why torch.compile can't work here, or None: it compiles C++ for a CPU, and C beside a GPU's kernels.

    Both include Python's own header, and a GPU's kernels are Triton's.
    """
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++", "clang++"))
    named = os.environ.get(variable)
    if not any(shutil.which(name) for name in ([named] if named else usual)):
        return f"no compiler ({named or ' or '.join(usual)})"
    if device.type == "cuda" and find_spec("triton") is None:
        return "no Triton (pip install triton)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no Python.h (the python3-dev package of most systems)"
    return None


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all its work; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def free_memory(device: torch.device) -> int:
    """Bytes that the device has free; on a CPU, and where memory is shared with it, those that processes can
    still get. What this process's allocator keeps of a GPU without using it is free, too."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    available = int(psutil.virtual_memory().available)
    limit = _container_memory()
    return available if limit is None else min(available, limit)


def _container_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves (cgroup v2), or None; file pages that can be dropped count as free."""
    try:
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    figures = dict(line.split() for line in lines)
    return max(0, limit - used + int(figures.get("inactive_file", 0)))


LIBRARIES = ("torch", "numpy", "polars", "scipy", "scikit-learn", "hydra-core", "omegaconf", "safetensors")


def manifest(
    data_digest: str,
    device: torch.device,
    precision: str,
    origins: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Plain values for manifest.json.

    origins: other runs and embedding weights that this run depends on, by config key
    """
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
    """The git commit of the checkout that this code runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
