"""How cost grows: with symbols, with bars, with parameters; three sizes each."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stockenh.commands.bench.clock import Clock, Figure, median
from stockenh.commands.bench.pipeline import read_files, write_files
from stockenh.commands.bench.setup import Bed
from stockenh.commands.bench.training import ProjectLoop, settled

PART = "growth"

# Symbols and bars of each: first the one grows, then the other.
SIZES = ((10, 1258), (100, 1258), (1000, 1258), (50, 500), (50, 1000), (50, 2000))
WIDTHS = (64, 128, 256)


def with_data(symbols: int, bars: int) -> list[Figure]:
    """Seconds to read so many files of so many bars, and the memory that they take."""
    with tempfile.TemporaryDirectory() as name:
        files, cache = Path(name, "bars"), Path(name, "cache")
        write_files(files, symbols, bars)
        first, again = (read_files(files, cache) for _ in range(2))
    what, total = f"{symbols:,} symbols x {bars:,} bars", symbols * bars
    beyond = again["peak_mib"] - again["import_mib"]
    note = f"{beyond * 2**20 / total:.0f} bytes a bar beyond imports"
    return [
        Figure(PART, f"{what}: first time", "s", first["seconds"], note="wall time"),
        Figure(PART, f"{what}: peak memory beyond imports, from the cache", "MiB", beyond, note=note),
    ]


def with_parameters(raw: Mapping[str, Any], model: Mapping[str, Any], clock: Clock) -> list[Figure]:
    """A step of the project's loop; model: the node of a timeformer, whose width is varied."""
    loops, sizes = {}, {}
    for width in WIDTHS:
        bed = settled(Bed.make(raw, {**model, "d_model": width, "ffn": 2 * width}, clock.device))
        loop = ProjectLoop(bed)
        count = sum(p.numel() for p in loop.learner.model.parameters())
        name = f"{count:,} parameters, {bed.config.train.precision}: one step of {loop.windows} windows"
        loops[name], sizes[name] = loop, count
    taken = clock.in_turn(loops)
    return [
        median(PART, name, "ms", 1000 * seconds, note=_per_million(seconds.min(), sizes[name]))
        for name, seconds in taken.items()
    ]


def _per_million(seconds: float, parameters: int) -> str:
    threads = f"{torch.get_num_threads()} thread(s)"
    return f"{1e9 * seconds / parameters:.0f} ms for a million parameters, {threads}"
