"""One benchmark of this machine from a config to bench.json, bench.md and bench.png."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import stockenh
from stockenh.benchmark.bed import Bed
from stockenh.benchmark.clock import Clock
from stockenh.benchmark.figures import Figure, skipped
from stockenh.benchmark.growth import SIZES, with_data, with_parameters
from stockenh.benchmark.inference import STUDENT, TEACHER, augmentation, inference
from stockenh.benchmark.machine import Peaks, describe, peaks
from stockenh.benchmark.memory import peak_memory
from stockenh.benchmark.pipeline import pipeline
from stockenh.benchmark.techniques import NO_CARD, compiling, techniques
from stockenh.benchmark.training import loop_overhead, training
from stockenh.config import parse
from stockenh.files import write_atomic, write_json
from stockenh.plots.benchmark import benchmark_chart
from stockenh.settings import MEASURED, BenchConfig
from stockenh.tables.benchmark import benchmark_markdown, benchmark_table

PARTS = ("machine", *MEASURED)

Work = tuple[str, str, Callable[[], list[Figure]]]  # its part, its name, and what measures it


def benchmark(
    raw: Mapping[str, Any], models: Mapping[str, Any], on: torch.device, into: Path, out: Console
) -> dict[str, Any]:
    """Measures what `bench` asks for and leaves the files in `into`.

    raw: a composed config; models: the node of every model to measure by its name, teacher and student
    of the exports besides.
    """
    config = parse(raw)
    torch.set_num_threads(config.threads or 1)
    began = time.perf_counter()
    clock = Clock(on, config.bench.seconds, config.bench.rounds, began + 60 * config.bench.minutes)
    with out.status("measuring the machine") as status:
        machine, top = describe(on), peaks(replace(clock, seconds=1.0))
        figures, took = _machine(top, on), {}
        for part, what, measure in _work(raw, models, clock, top, config.bench):
            started = time.perf_counter()
            if clock.is_over:
                figures.append(skipped(part, what, f"bench.minutes={config.bench.minutes:g} are over"))
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
