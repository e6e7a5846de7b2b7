"""Run as a process of its own: prints the peak memory in bytes of some recipes' training steps."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import torch

from stockenh.commands.ablate.cost import ready
from stockenh.config.schema import RunConfig, parse
from stockenh.models.cpu.memory import keep_freed_memory
from stockenh.models.spec import InputSpec

STEPS = 3  # optimizer steps: from the second on there is all that a step needs


def main() -> None:
    """Reads {"raws": {name: config}, "spec", "device"} from standard input; writes {name: bytes or null}."""
    asked = json.load(sys.stdin)
    spec, on = InputSpec(**asked["spec"]), torch.device(asked["device"])
    keep_freed_memory()
    torch.set_num_threads(1)
    measure = _on_card if on.type == "cuda" else _of_fork
    print(json.dumps({name: measure(parse(raw), spec, on) for name, raw in asked["raws"].items()}))


def _on_card(config: RunConfig, spec: InputSpec, on: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(on)
    _train(config, spec, on)
    return torch.cuda.max_memory_allocated(on)


def _of_fork(config: RunConfig, spec: InputSpec, on: torch.device) -> int | None:
    """In a process of its own, for memory that one recipe freed would serve the next; None where it fails."""
    read, write = os.pipe()
    if not (child := os.fork()):
        with contextlib.suppress(Exception):
            os.write(write, str(_of_this_process(config, spec, on)).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        said = answer.read()
    return int(said) if said else None


def _of_this_process(config: RunConfig, spec: InputSpec, on: torch.device) -> int:
    before = _status("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of the imports
    _train(config, spec, on)
    return _status("VmHWM") - before


def _train(config: RunConfig, spec: InputSpec, on: torch.device) -> None:
    ready(config, spec, on)(STEPS * config.train.accumulate)


def _status(name: str) -> int:
    """Bytes, from what Linux tells a process of itself."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {name}")


if __name__ == "__main__":
    main()
