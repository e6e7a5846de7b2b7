"""What a device computes natively, and what memory it has left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch


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
