"""What a device computes natively, and what memory it has left."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import stockenh


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself; others emulate it, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def lacks_compiler(device: torch.device) -> str | None:
    """What torch.compile misses here: it has C++ compiled for a CPU, and C around the kernels of a card."""
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++", "clang++"))
    named = os.environ.get(variable)
    if any(shutil.which(name) for name in ([named] if named else usual)):
        return None
    return f"no compiler ({named or ' or '.join(usual)})"


def free_memory(device: torch.device) -> int | None:
    """Bytes that the device has free; on a CPU those that processes could still get (Linux), or None."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = [free for free in (_kernel_says(), _group_says()) if free is not None]
    return min(told, default=None)


def _kernel_says() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _group_says(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves (cgroup v2); files that it could drop count as free."""
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
    root = Path(__file__).resolve().parents[2]
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
