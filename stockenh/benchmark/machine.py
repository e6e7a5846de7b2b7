"""What this machine can do at most: its matrix products and its memory, measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stockenh.benchmark.clock import Clock
from stockenh.hardware import has_bf16
from stockenh.training.precision import DTYPES

SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices
BLOCK = {"cpu": 2**26, "cuda": 2**29}  # floats that are copied: more than any cache holds


@dataclass(frozen=True)
class Peaks:
    """operations: multiplications and additions per second by precision; bandwidth: bytes per second."""

    operations: dict[str, float]
    bandwidth: float

    def floor(self, operations: float, moved: float, precision: str) -> float:
        """Seconds below which nothing that does so many operations and moves so many bytes can get."""
        return max(operations / self.operations[precision], moved / self.bandwidth)


def peaks(clock: Clock) -> Peaks:
    """Measures matrix products in every precision that the device has, and a copy that no cache holds."""
    device = clock.device
    side, block = SIDE[device.type], BLOCK[device.type]
    names = ["fp32", *(["bf16"] if has_bf16(device) else []), *(["fp16"] if device.type == "cuda" else [])]
    factors = {name: torch.randn(2, side, side, device=device).to(DTYPES[name]).unbind() for name in names}
    made = {name: torch.empty(side, side, dtype=DTYPES[name], device=device) for name in names}

    def product(name: str) -> None:
        torch.mm(*factors[name], out=made[name])

    seconds = clock.in_turn({name: partial(product, name) for name in names})
    operations = {name: 2 * side**3 / float(of.min()) for name, of in seconds.items()}
    source = torch.ones(block, device=device)
    target = torch.empty_like(source)
    copying = clock.in_turn({"copy": lambda: target.copy_(source)})["copy"]
    return Peaks(operations, 2 * 4 * block / float(copying.min()))


def describe(device: torch.device) -> dict[str, Any]:
    """What a reader must know of the machine, how busy it is included."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Its name as Linux tells it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
