"""One benchmark of this machine from a config to bench.json, bench.md and bench.png."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import stockenh
from stockenh.commands.bench.clock import Clock, Figure, skipped
from stockenh.commands.bench.growth import SIZES, with_data, with_parameters
from stockenh.commands.bench.inference import STUDENT, TEACHER, augmentation, inference
from stockenh.commands.bench.memory import peak_memory
from stockenh.commands.bench.pipeline import pipeline
from stockenh.commands.bench.setup import Bed
from stockenh.commands.bench.show import benchmark_chart, benchmark_markdown, benchmark_table
from stockenh.commands.bench.techniques import NO_CARD, compiling, techniques
from stockenh.commands.bench.training import loop_overhead, training
from stockenh.config.schema import BenchConfig, parse
from stockenh.storage.files import write_atomic, write_json
from stockenh.storage.machine import has_bf16
from stockenh.training.precision import DTYPES

PARTS = ("machine", "training", "techniques", "inference", "pipeline", "memory", "growth")

Work = tuple[str, str, Callable[[], list[Figure]]]  # its part, its name, and what measures it


def benchmark(
    raw: Mapping[str, Any],
    settings: BenchConfig,
    models: Mapping[str, Any],
    on: torch.device,
    into: Path,
    out: Console,
) -> dict[str, Any]:
    """Measures what the settings ask for and leaves the files in `into`.

    raw: a composed config; models: the node of every model to measure by its name, teacher and student
    of the exports besides.
    """
    config = parse(raw)
    torch.set_num_threads(config.threads or 1)
    began = time.perf_counter()
    clock = Clock(on, settings.seconds, settings.rounds, began + 60 * settings.minutes)
    with out.status("measuring the machine") as status:
        machine, top = describe(on), peaks(replace(clock, seconds=1.0))
        figures, took = _machine(top, on), {}
        for part, what, measure in _work(raw, models, clock, top, settings):
            started = time.perf_counter()
            if clock.is_over:
                figures.append(skipped(part, what, f"bench.minutes={settings.minutes:g} are over"))
                continue
            status.update(f"measuring {what}; {started - began:.0f} s so far")
            figures += measure()
            took[what] = round(time.perf_counter() - started, 1)
    found = {
        "stockenh": stockenh.__version__,
        "machine": {**machine, "load_after": describe(on)["load"], "seconds_are": clock.kind},
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_of": took,
        "figures": [f.to_dict() for f in sorted(figures, key=lambda f: PARTS.index(f.part))],
    }
    _leave(found, into, out)
    return found


def _leave(found: dict[str, Any], into: Path, out: Console) -> None:
    write_json(into / "bench.json", found)
    write_atomic(into / "bench.md", benchmark_markdown(found).encode())
    picture = benchmark_chart(found, into / "bench.png")
    out.print(benchmark_table(found))
    for path in (into / "bench.json", into / "bench.md", picture):
        out.print(f"bench    {path}", soft_wrap=True, markup=False)


def _machine(top: Peaks, on: torch.device) -> list[Figure]:
    """The peaks, and in plain words what a machine without a card leaves out."""
    found = [
        Figure("machine", f"matrix product, {name}", "GFLOP/s", per_second / 1e9, note="the best round")
        for name, per_second in top.operations.items()
    ]
    found.append(Figure("machine", "memory", "GB/s", top.bandwidth / 1e9, note="a copy, both ways counted"))
    if on.type != "cuda":
        found.append(skipped("machine", "everything on a GPU", NO_CARD))
    return found


def _work(
    raw: Mapping[str, Any], models: Mapping[str, Any], clock: Clock, top: Peaks, bench: BenchConfig
) -> Iterator[Work]:
    """What there is to measure, what matters most first: the time may end before the list."""
    on, first = clock.device, bench.models[0]
    large = Bed.make(raw, models[first], on)
    if "training" in bench.parts:
        yield from _training(raw, models, first, clock, top)
    if "techniques" in bench.parts:
        yield "techniques", f"techniques on {first}", partial(techniques, first, large, clock)
    if "inference" in bench.parts:
        teacher = Bed.make(raw, models[TEACHER], on)
        yield "inference", "views", partial(augmentation, TEACHER, teacher, clock)
        yield "inference", "exports", partial(inference, raw, models, clock)
    if "pipeline" in bench.parts:
        student = Bed.make(raw, models[STUDENT], on)
        yield "pipeline", "the data pipeline", partial(pipeline, student, clock, bench.symbols)
    for name in bench.models[1:] if "training" in bench.parts else ():
        yield from _training(raw, models, name, clock, top)
    for name in bench.models if "memory" in bench.parts else ():
        yield "memory", f"memory of {name}", partial(peak_memory, name, raw, models[name], on)
    if "growth" in bench.parts:
        yield "growth", "parameters", partial(with_parameters, raw, models["timeformer"], clock)
        for symbols, bars in SIZES:
            yield "growth", f"{symbols} symbols x {bars} bars", partial(with_data, symbols, bars)
    if "techniques" in bench.parts:
        yield "techniques", "torch.compile", partial(compiling, first, large, clock, bench.compile)


def _training(
    raw: Mapping[str, Any], models: Mapping[str, Any], name: str, clock: Clock, top: Peaks
) -> Iterator[Work]:
    bed = Bed.make(raw, models[name], clock.device)
    yield "training", f"training of {name}", partial(training, name, bed, clock, top)
    yield "training", f"the loop of {name}", partial(loop_overhead, name, bed, clock)


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
