"""What stands around a model: start-up, reading, features, embedding, the loader."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stockenh.commands.bench.clock import Aim, Clock, Figure, median
from stockenh.commands.bench.memory import process_peak
from stockenh.commands.bench.plain import loaded
from stockenh.commands.bench.setup import Bed
from stockenh.data.cache import DiskCache
from stockenh.data.features.context import FeatureSettings, context_features
from stockenh.data.sources.files import FilesData
from stockenh.data.windows import BarWindows
from stockenh.embedding.kernel import KernelEmbedding

PART = "pipeline"
BARS = 1258  # five years of daily bars
HELPS, CACHED = 5, 2  # processes started

# The same 29 features made with pandas, window by window of 120 bars, as a notebook does it: windows per
# second on one core of the machine of docs/measurements.md.
PANDAS_WINDOWS_PER_SECOND = 12.0
EMBEDDED = 512


def pipeline(bed: Bed, clock: Clock, symbols: int) -> list[Figure]:
    """All of it on the CPU, but for the gathering of batches."""
    return [_start_up(), *_files(symbols), *_features(bed, clock), *_loader(bed, clock)]


def _start_up() -> Figure:
    command = [sys.executable, "-m", "stockenh", "--help"]
    taken = []
    for _ in range(HELPS):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        taken.append(time.perf_counter() - began)
    return median(PART, "stockenh --help", "s", taken, Aim(0.4, at_most=True), "wall time")


def _files(symbols: int) -> list[Figure]:
    """CSV files to ready windows: the first time, and from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        bars, cache = Path(folder, "bars"), Path(folder, "cache")
        write_files(bars, symbols)
        first = read_files(bars, cache)
        again = [read_files(bars, cache) for _ in range(CACHED)]
    # the limits are for 500 symbols; fewer must not take longer
    what = f"{symbols} symbols x {BARS} bars of CSV"
    return [
        Figure(PART, f"{what}, first", "s", first["seconds"], aim=Aim(20, at_most=True), note="wall time"),
        Figure(PART, f"{what}, peak memory", "MiB", first["peak_mib"], note="imports included"),
        median(PART, f"{what}, cached", "s", [a["seconds"] for a in again], Aim(2, at_most=True),
               "wall time"),
    ]  # fmt: skip


def _features(bed: Bed, clock: Clock) -> list[Figure]:
    clock = replace(clock, device=torch.device("cpu"), seconds=clock.seconds / 4)
    windows = bed.prepared.windows
    assert isinstance(windows, BarWindows)
    embedding = KernelEmbedding()
    prices = bed.inputs(EMBEDDED)[0].cpu()
    taken = clock.in_turn(
        {
            "features": lambda: context_features(windows.bars, FeatureSettings()),
            "embedding": lambda: embedding.transform(prices),
        }
    )
    features = len(windows) / taken["features"]
    note = f"pandas: {PANDAS_WINDOWS_PER_SECOND:g} windows/s, not measured here"
    return [
        median(PART, "29 features", "windows/s", features),
        median(PART, "29 features / pandas, window by window", "times", features / PANDAS_WINDOWS_PER_SECOND,
               Aim(2000), note),
        median(PART, "kernel embedding", "windows/s", EMBEDDED / taken["embedding"]),
    ]  # fmt: skip


def _loader(bed: Bed, clock: Clock) -> list[Figure]:
    """A DataLoader over five tensors against gathering from the bars on the device."""
    clock = replace(clock, seconds=clock.seconds / 4)
    batch = bed.config.train.batch_size
    batches, notebook = bed.batches(), loaded(bed.tensors(1024), batch)
    calls: dict[str, Callable[[], object]] = {
        "loader": lambda: [x.to(bed.device) for x in next(notebook)],
        "gather": lambda: batches.group(0, 0),
    }
    taken = clock.in_turn(calls)
    return [
        median(PART, f"DataLoader, batch of {batch}", "ms", 1000 * taken["loader"]),
        median(PART, f"gathered on the device, batch of {batch}", "ms", 1000 * taken["gather"]),
    ]


def write_files(folder: Path, symbols: int, bars: int = BARS) -> None:
    """One CSV of random daily bars for each symbol."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(symbols):
        (folder / f"S{number:04d}.csv").write_text(_csv(np.random.default_rng(number), bars))


def read_files(bars: Path, cache: Path) -> dict[str, float]:
    """A fresh process reads them: `seconds` without imports, `peak_mib`, `import_mib`, `windows`."""
    command = [sys.executable, "-m", __name__, str(bars), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _csv(rng: np.random.Generator, bars: int) -> str:
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, bars)))
    opening = close * np.exp(rng.normal(0, 0.005, bars))
    high, low = np.maximum(opening, close) * 1.01, np.minimum(opening, close) * 0.99
    day = np.busday_offset(np.datetime64("2015-01-05"), np.arange(bars))
    volume = rng.integers(10**5, 10**7, bars)
    rows = zip(day, opening, high, low, close, close, volume, strict=True)
    lines = [f"{d},{o:.6f},{h:.6f},{lo:.6f},{c:.6f},{a:.6f},{v}" for d, o, h, lo, c, a, v in rows]
    return "\n".join(["Date,Open,High,Low,Close,Adj Close,Volume", *lines]) + "\n"


def main() -> None:
    """The process that reads."""
    imported = process_peak() or 0.0
    began = time.perf_counter()
    windows = FilesData(path=sys.argv[1]).load(DiskCache(Path(sys.argv[2]))).windows
    seconds = time.perf_counter() - began
    peak = process_peak() or 0.0
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "import_mib": imported, "windows": len(windows)}))


if __name__ == "__main__":
    main()
