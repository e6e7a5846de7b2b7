"""How cost grows: with symbols, with bars, with parameters; three sizes each."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stockenh.benchmark.bed import Bed
from stockenh.benchmark.clock import Clock
from stockenh.benchmark.figures import Figure, median
from stockenh.benchmark.pipeline import read_files, write_files
from stockenh.benchmark.training import ProjectLoop, settled

PART = "growth"
SYMBOLS = (10, 100, 1000)
BARS = (500, 1000, 2000)
BARS_OF_EACH = 1258
SYMBOLS_OF_EACH = 50
WIDTHS = (64, 128, 256)


def growth(raw: Mapping[str, Any], model: Mapping[str, Any], clock: Clock) -> list[Figure]:
    """model: the node of a timeformer, whose width is varied."""
    return [*_with_symbols(), *_with_bars(), *_with_parameters(raw, model, clock)]


def _with_symbols() -> list[Figure]:
    found = []
    with tempfile.TemporaryDirectory() as name:
        for symbols in SYMBOLS:
            found += _read(Path(name, f"symbols {symbols}"), symbols, BARS_OF_EACH)
    return found


def _with_bars() -> list[Figure]:
    found = []
    with tempfile.TemporaryDirectory() as name:
        for bars in BARS:
            found += _read(Path(name, f"bars {bars}"), SYMBOLS_OF_EACH, bars)
    return found


def _read(folder: Path, symbols: int, bars: int) -> list[Figure]:
    write_files(folder / "bars", symbols, bars)
    first = read_files(folder / "bars", folder / "cache")
    again = read_files(folder / "bars", folder / "cache")
    what, total = f"{symbols:,} symbols x {bars:,} bars", symbols * bars
    beyond = again["peak_mib"] - again["import_mib"]
    note = f"{beyond * 2**20 / total:.0f} bytes a bar beyond imports"
    return [
        Figure(PART, f"{what}: first time", "s", first["seconds"], note="wall time"),
        Figure(PART, f"{what}: peak memory beyond imports, from the cache", "MiB", beyond, note=note),
    ]


def _with_parameters(raw: Mapping[str, Any], model: Mapping[str, Any], clock: Clock) -> list[Figure]:
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
