"""Peak memory of a training: of a process of its own on a CPU, of the card's allocator on CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from stockenh.commands.bench.clock import Aim, Figure, skipped
from stockenh.commands.bench.plain import torch_layers
from stockenh.commands.bench.setup import Bed
from stockenh.commands.bench.training import ProjectLoop, plain_step, settled

PART = "memory"
STEPS = 3
KINDS = ("plain", "project")
STATUS = "/proc/self/status"


def peak_memory(
    name: str, raw: Mapping[str, Any], model: Mapping[str, Any], device: torch.device
) -> list[Figure]:
    """MiB of the plain recipe and of the project's loop, and their ratio (of a process: imports included)."""
    aim = Aim(0.5, at_most=True) if device.type == "cuda" else None
    measure = _on_card if device.type == "cuda" else _of_process
    found = [measure(kind, raw, model, device) for kind in KINDS]
    if None in found:
        return [skipped(PART, f"{name}", f"this system has no {STATUS}", aim)]
    a, b = (value for value in found if value is not None)
    what = "of the card" if device.type == "cuda" else "of the process, imports included"
    return [
        Figure(PART, f"{name}: peak memory, plain recipe", "MiB", a, note=what),
        Figure(PART, f"{name}: peak memory, project's loop", "MiB", b, note=what),
        Figure(PART, f"{name}: peak memory, project's loop / plain", "times", b / a, aim=aim),
    ]


def work(kind: str, bed: Bed) -> None:
    """Some steps of one of the two."""
    bed = settled(bed)
    step = ProjectLoop(bed) if kind == "project" else plain_step(bed, torch_layers(bed.net()))
    for _ in range(STEPS):
        step()


def process_peak() -> float | None:
    """MiB that this process held at most. getrusage would count what its parent held when it forked."""
    try:
        with open(STATUS, encoding="utf-8") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def _on_card(
    kind: str, raw: Mapping[str, Any], model: Mapping[str, Any], device: torch.device
) -> float | None:
    bed = Bed.make(raw, model, device)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(kind, bed)
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before) / 2**20


def _of_process(
    kind: str, raw: Mapping[str, Any], model: Mapping[str, Any], device: torch.device
) -> float | None:
    command = [sys.executable, "-m", __name__]
    asked = json.dumps({"kind": kind, "raw": raw, "model": model, "threads": torch.get_num_threads()})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    found: float | None = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The process that is measured: what to do comes in, its peak goes out."""
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    work(asked["kind"], Bed.make(asked["raw"], asked["model"], torch.device("cpu")))
    print(json.dumps(process_peak()))


if __name__ == "__main__":
    main()
