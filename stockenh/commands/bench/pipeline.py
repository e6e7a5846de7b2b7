"""What stands around a model: start-up, reading, features, embedding, the loader; and how reading grows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from stockenh.commands.bench.figures import Aim, Figure, median
from stockenh.commands.bench.setup import Setup, loaded
from stockenh.commands.measure import Clock, in_new_process, process_peak
from stockenh.data.cache import DiskCache
from stockenh.data.features import FeatureSettings, context_features
from stockenh.data.processes import available_cores
from stockenh.data.sources.files import FilesData
from stockenh.data.windows import BarWindows
from stockenh.embedding.kernel import KernelEmbedding
from stockenh.errors import counted

PIPELINE, GROWTH = "pipeline", "growth"
BARS = 1258  # five years of daily bars
HELPS, CACHED = 5, 2  # processes started
EMBEDDED, LOADED = 512, 1024  # windows

# Symbols and bars of each: first the symbols grow, then the bars.
SIZES = ((10, 1258), (100, 1258), (1000, 1258), (50, 500), (50, 1000), (50, 2000))

# The same 29 features made with pandas, window by window of 120 bars, as a notebook does it: windows per
# second on one core of the machine of docs/measurements.md.
PANDAS_WINDOWS_PER_SECOND = 12.0


def pipeline(setup: Setup, clock: Clock, symbols: int, bars: int) -> list[Figure]:
    """All of it on the CPU, but for the gathering of batches."""
    return [_start_up(), *_files(symbols, bars), *_features(setup, clock), *_loader(setup, clock)]


def _start_up() -> Figure:
    command = [sys.executable, "-m", "stockenh", "--help"]
    taken = []
    for _ in range(HELPS):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        taken.append(time.perf_counter() - began)
    return median(PIPELINE, "stockenh --help", "s", taken, Aim(0.4, at_most=True), "wall time")


def _files(symbols: int, bars: int) -> list[Figure]:
    """CSV files to ready windows: the first time, and from the cache."""
    first, *again = _reads(symbols, bars, 1 + CACHED)
    cached = [read["seconds"] for read in again]
    # the limits are for 500 symbols and five years; fewer bars must not take longer
    limit = [Aim(at, at_most=True) if symbols * bars <= 500 * BARS else None for at in (20, 2)]
    what, note = (
        f"{symbols:,} symbols x {bars:,} bars of CSV",
        f"wall time, {counted(available_cores(), 'core')}",
    )
    peak = first["peak"] / 2**20
    return [
        Figure(PIPELINE, f"{what}, first", "s", first["seconds"], aim=limit[0], note=note),
        Figure(PIPELINE, f"{what}, peak memory", "MiB", peak, note="imports included"),
        median(PIPELINE, f"{what}, cached", "s", cached, limit[1], note),
    ]


def growth_with_data(symbols: int, bars: int) -> list[Figure]:
    """Seconds to read so many files of so many bars, and the memory that they take."""
    first, again = _reads(symbols, bars, 2)
    what, beyond = f"{symbols:,} symbols x {bars:,} bars", again["peak"] - again["imports"]
    note, name = f"{beyond / (symbols * bars):.0f} bytes a bar beyond imports", "peak memory beyond imports"
    return [
        Figure(GROWTH, f"{what}: first time", "s", first["seconds"], note="wall time"),
        Figure(GROWTH, f"{what}: {name}, from the cache", "MiB", beyond / 2**20, note=note),
    ]


def _reads(symbols: int, bars: int, times: int) -> list[dict[str, float]]:
    """What `read_files` measures in a new process each, the first time without a cache."""
    with tempfile.TemporaryDirectory() as folder:
        files, cache = Path(folder, "bars"), Path(folder, "cache")
        write_files(files, symbols, bars)
        return [in_new_process(read_files, str(files), str(cache)) for _ in range(times)]


def read_files(files: str, cache: str) -> dict[str, float]:
    """`seconds` to read the files, without imports; bytes of this process's `peak`, and after `imports`."""
    imports, began = process_peak() or 0, time.perf_counter()
    windows = FilesData(path=files).load(DiskCache(Path(cache))).windows
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak": process_peak() or 0, "imports": imports, "windows": len(windows)}


def write_files(folder: Path, symbols: int, bars: int = BARS) -> None:
    """One CSV of random daily bars for each symbol."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(symbols):
        rng = np.random.default_rng(number)
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
        opening = close * np.exp(rng.normal(0, 0.005, bars))
        high, low = np.maximum(opening, close) * 1.01, np.minimum(opening, close) * 0.99
        day = np.busday_offset(np.datetime64("2024-12-31"), np.arange(1 - bars, 1))
        columns = {"Date": day, "Open": opening, "High": high, "Low": low, "Close": close, "Adj Close": close}
        volume = rng.integers(10**5, 10**7, bars)
        frame = pl.DataFrame({**columns, "Volume": volume})
        frame.write_csv(folder / f"S{number:04d}.csv", float_precision=6)


def _features(setup: Setup, clock: Clock) -> list[Figure]:
    clock = replace(clock, device=torch.device("cpu"), seconds=clock.seconds / 4)
    windows, embedding, prices = setup.prepared.windows, KernelEmbedding(), setup.inputs(EMBEDDED)[0].cpu()
    assert isinstance(windows, BarWindows)
    taken = clock.in_turn(
        {
            "features": lambda: context_features(windows.bars, FeatureSettings()),
            "embedding": lambda: embedding.transform(prices),
        }
    )
    features = len(windows) / taken["features"]
    ratio, note = features / PANDAS_WINDOWS_PER_SECOND, f"pandas: {PANDAS_WINDOWS_PER_SECOND:g} windows/s"
    return [
        median(PIPELINE, "29 features", "windows/s", features),
        median(PIPELINE, "29 features / pandas, window by window", "times", ratio, Aim(2000),
               f"{note}, not measured here"),
        median(PIPELINE, "kernel embedding", "windows/s", EMBEDDED / taken["embedding"]),
    ]  # fmt: skip


def _loader(setup: Setup, clock: Clock) -> list[Figure]:
    """A DataLoader over five tensors against gathering from the bars on the device."""
    batches, batch = setup.batches(), setup.batch_size
    notebook = loaded([x.cpu() for x in setup.tensors(LOADED)], batch)
    taken = replace(clock, seconds=clock.seconds / 4).in_turn(
        {
            "loader": lambda: [x.to(setup.device) for x in next(notebook)],
            "gather": lambda: batches.group(0, 0),
        }
    )
    return [
        median(PIPELINE, f"DataLoader, batch of {batch}", "ms", 1000 * taken["loader"]),
        median(PIPELINE, f"gathered on the device, batch of {batch}", "ms", 1000 * taken["gather"]),
    ]
