"""One benchmark of this machine from a config to bench.json, bench.md and bench.png."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import stockenh
from stockenh.commands.bench.figures import (
    Figure,
    benchmark_chart,
    benchmark_markdown,
    benchmark_table,
    skipped,
)
from stockenh.commands.bench.inference import STUDENT, TEACHER, augmentation, inference
from stockenh.commands.bench.pipeline import SIZES, growth_with_data, pipeline
from stockenh.commands.bench.result import time_to_result
from stockenh.commands.bench.setup import Setup
from stockenh.commands.bench.training import (
    NO_GPU,
    Peaks,
    compiling,
    growth_with_parameters,
    loop_overhead,
    memory,
    techniques,
    training,
)
from stockenh.commands.measure import Clock
from stockenh.config.schema import BenchConfig, parse
from stockenh.report.terminal import print_files
from stockenh.storage.files import write_atomic, write_json

PARTS = ("machine", "result", "training", "techniques", "inference", "pipeline", "memory", "growth")

Work = tuple[str, str, Callable[[], list[Figure]]]  # its part, its name, and what measures it


def benchmark(
    raw: Mapping[str, Any],
    plain: Mapping[str, Any],
    bench: BenchConfig,
    models: Mapping[str, Any],
    device: torch.device,
    directory: Path,
    console: Console,
) -> dict[str, Any]:
    """Measures the parts that `bench` names and leaves the files in `directory`.

    raw: a composed config; plain: of the plain recipe, for the time to a result; models: the node of every
    model to measure by its name, teacher and student of the exports besides.
    """
    config = parse(raw)
    torch.set_num_threads(config.threads or 1)
    began = time.perf_counter()
    clock = Clock(device, bench.seconds, bench.rounds, until=began + 60 * bench.minutes)
    with console.status("measuring the machine") as status:
        machine, peaks = describe(device), Peaks.measured(replace(clock, seconds=1.0))
        figures, seconds = _machine(peaks, device), {}
        for part, name, measure in _work(raw, plain, models, clock, peaks, bench):
            started = time.perf_counter()
            if clock.is_over:
                figures.append(skipped(part, name, f"bench.minutes={bench.minutes:g} are over"))
                continue
            status.update(f"measuring {name}; {started - began:.0f} s so far")
            figures += measure()
            seconds[name] = round(time.perf_counter() - started, 1)
    found = {
        "stockenh": stockenh.__version__,
        "machine": {**machine, "load_after": describe(device)["load"], "seconds_are": clock.kind},
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_of": seconds,
        "figures": [f.to_dict() for f in sorted(figures, key=lambda f: PARTS.index(f.part))],
    }
    write_json(directory / "bench.json", found)
    write_atomic(directory / "bench.md", benchmark_markdown(found).encode())
    benchmark_chart(found, directory / "bench.png")
    console.print(benchmark_table(found))
    print_files(console, "bench", (directory / f"bench.{kind}" for kind in ("json", "md", "png")))
    return found


def _machine(peaks: Peaks, device: torch.device) -> list[Figure]:
    """The peaks, and in plain words what a machine without a GPU leaves out."""
    found = [
        Figure("machine", f"matrix product, {name}", "GFLOP/s", per_second / 1e9, note="the best round")
        for name, per_second in peaks.operations.items()
    ]
    note = "a copy, both ways counted"
    found.append(Figure("machine", "memory", "GB/s", peaks.bandwidth / 1e9, note=note))
    if device.type != "cuda":
        found.append(skipped("machine", "everything on a GPU", NO_GPU))
    return found


def _work(
    raw: Mapping[str, Any],
    plain: Mapping[str, Any],
    models: Mapping[str, Any],
    clock: Clock,
    peaks: Peaks,
    bench: BenchConfig,
) -> Iterator[Work]:
    """What there is to measure, what matters most first: the time may end before the list."""
    device, first = clock.device, bench.models[0]
    for name in bench.models if "result" in bench.parts else ():
        of_plain, own = ({**recipe, "model": models[name]} for recipe in (plain, raw))
        measure = partial(time_to_result, name, of_plain, own, bench.seeds, clock)
        yield "result", f"{name} to a result", measure
    large = Setup.make(raw, models[first], device)

    def training_of(name: str) -> Iterator[Work]:
        setup = Setup.make(raw, models[name], device)
        yield "training", f"training of {name}", partial(training, name, setup, clock, peaks)
        yield "training", f"the loop of {name}", partial(loop_overhead, name, setup, clock)

    if "training" in bench.parts:
        yield from training_of(first)
    if "techniques" in bench.parts:
        yield "techniques", f"techniques on {first}", partial(techniques, first, large, clock)
    if "inference" in bench.parts:
        teacher = Setup.make(raw, models[TEACHER], device)
        yield "inference", "views", partial(augmentation, TEACHER, teacher, clock)
        yield "inference", "exports", partial(inference, raw, models, clock)
    if "pipeline" in bench.parts:
        student = Setup.make(raw, models[STUDENT], device)
        yield "pipeline", "the data pipeline", partial(pipeline, student, clock, bench.symbols, bench.bars)
    for name in bench.models[1:] if "training" in bench.parts else ():
        yield from training_of(name)
    for name in bench.models if "memory" in bench.parts else ():
        yield "memory", f"memory of {name}", partial(memory, name, raw, models[name], device)
    if "growth" in bench.parts:
        yield "growth", "parameters", partial(growth_with_parameters, raw, models["timeformer"], clock)
        for symbols, bars in SIZES:
            yield "growth", f"{symbols} symbols x {bars} bars", partial(growth_with_data, symbols, bars)
    if "techniques" in bench.parts:
        yield "techniques", "torch.compile", partial(compiling, first, large, clock, bench.compile)


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
    """Its name as Linux lists it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
