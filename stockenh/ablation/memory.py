"""Run as a process of its own: prints the peak memory in bytes of a recipe's training steps."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import torch

from stockenh.ablation.cost import ready
from stockenh.config import parse
from stockenh.models.spec import InputSpec
from stockenh.training.memory import keep_freed_memory

MICROS = 12  # three optimizer steps of the recipe that accumulates four


def main() -> None:
    """Reads {"raw", "spec", "device"} from standard input."""
    asked = json.load(sys.stdin)
    config, spec, on = parse(asked["raw"]), InputSpec(**asked["spec"]), torch.device(asked["device"])
    keep_freed_memory()
    torch.set_num_threads(1)
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats(on)
        ready(config, spec, on)(MICROS)
        print(torch.cuda.max_memory_allocated(on))
        return
    before = _status("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of the imports
    ready(config, spec, on)(MICROS)
    print(_status("VmHWM") - before)


def _status(name: str) -> int:
    """Bytes, from what Linux tells a process of itself."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name}")


if __name__ == "__main__":
    main()
