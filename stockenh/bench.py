"""What this machine makes of stockenh: start-up, the data pipeline, the loop's own share of a training epoch.

Run with `make bench`. Every figure is a median; nothing here judges.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from stockenh import build
from stockenh.analysis.calibration import Calibration
from stockenh.compose import compose
from stockenh.config import parse, plain
from stockenh.data.batches import DeviceWindows
from stockenh.data.fitted import Fitted
from stockenh.export.deployed import Deployed
from stockenh.export.files import OnnxModel, quietly, write_int8, write_onnx
from stockenh.files import write_json
from stockenh.models.spec import InputSpec
from stockenh.runfolder import RunFolder
from stockenh.terminal import console
from stockenh.timing import in_turn
from stockenh.training.journal import FolderJournal
from stockenh.training.loop import State
from stockenh.training.threads import default_threads, threads

SYMBOLS, BARS = 500, 1258  # five years of daily bars

# Peak memory in MiB. getrusage would count what the parent held when it forked; this does not.
_PEAK = """
def peak_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
"""

# A fresh process: seconds from the settings to ready windows, imports not counted, and its peak memory.
_LOAD = (
    _PEAK
    + """
import json, sys, time
from pathlib import Path
from stockenh.data.cache import DiskCache
from stockenh.data.sources import FilesData
began = time.perf_counter()
windows = FilesData(path=sys.argv[1]).load(DiskCache(Path(sys.argv[2]))).windows
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "peak_mib": peak_mib(), "windows": len(windows)}))
"""
)


def main() -> None:
    """Measures, prints a table, and leaves bench.json in outputs/."""
    found: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "help_seconds": start_up(),
        **data_pipeline(),
        **loop_overhead("timeformer"),
        **loop_overhead("timeformer_xl"),
        **exported_student(),
    }
    out = console()
    table = Table("figure", "value")
    for name, value in found.items():
        table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
    out.print(table)
    path = Path("outputs") / "bench.json"
    write_json(path, found)
    out.print(f"figures  {path}")


def start_up(runs: int = 7) -> float:
    """Seconds that `stockenh --help` takes, as a whole process."""
    command = [sys.executable, "-m", "stockenh", "--help"]
    return _median(lambda: subprocess.run(command, capture_output=True, check=True), runs)


def data_pipeline() -> dict[str, float]:
    """500 symbols x 5 years of CSV to ready windows: the first time, and from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        bars, cache = Path(folder, "bars"), Path(folder, "cache")
        bars.mkdir()
        for number in range(SYMBOLS):
            (bars / f"S{number:03d}.csv").write_text(_csv(np.random.default_rng(number)))
        first = _load(bars, cache)
        again = [_load(bars, cache) for _ in range(3)]
        return {
            "data_windows": first["windows"],
            "data_first_seconds": first["seconds"],
            "data_first_peak_mib": first["peak_mib"],
            "data_cached_seconds": statistics.median(a["seconds"] for a in again),
            "data_cached_peak_mib": statistics.median(a["peak_mib"] for a in again),
        }


def loop_overhead(model: str, steps: int = 40) -> dict[str, float]:
    """The share of an epoch on the sample that is not forward, loss, backward, clipping or optimizer.

    Gathering, the schedule and the averages are timed by themselves; the epoch's checkpoint is added.
    """
    config = parse(plain(compose([f"model={model}"])))
    on = build.device(config.device)
    prepared = build.data(config, on)
    fitted = Fitted.on(prepared.windows, prepared.rows["train"])
    resident = DeviceWindows(prepared.windows, prepared.embedding, fitted, on)
    batches = build.batches(config, prepared, resident)
    net = build.model(config, prepared, on).train()
    torch.set_num_threads(default_threads(net))
    learner = build.learner(config, net, fitted, on, batches.steps)
    gathering: list[float] = []
    working: list[float] = []
    bookkeeping: list[float] = []
    for step in range(steps):
        marks = [time.perf_counter()]
        group = batches.group(0, step % batches.steps)
        marks.append(time.perf_counter())
        learner.update(group)
        marks.append(time.perf_counter())
        learner.schedule.step()
        learner.averages.update(learner.model)
        marks.append(time.perf_counter())
        for taken, begin, end in zip((gathering, working, bookkeeping), marks, marks[1:], strict=False):
            taken.append(end - begin)
    with tempfile.TemporaryDirectory() as folder:
        journal = FolderJournal(RunFolder(Path(folder)), learner)
        saving = _median(lambda: journal.pause(State()), 3)
    work = batches.steps * statistics.median(working)
    outside = batches.steps * (statistics.median(gathering) + statistics.median(bookkeeping)) + saving
    return {
        f"{model}_windows_per_second": len(batches.rows) / (work + outside),
        f"{model}_threads": torch.get_num_threads(),
        f"{model}_step_seconds": statistics.median(working),
        f"{model}_gather_seconds": statistics.median(gathering),
        f"{model}_checkpoint_seconds": saving,
        f"{model}_outside_share": outside / (work + outside),
    }


def exported_student() -> dict[str, float]:
    """The exported student against the eager `timeformer_xl` and its exports, one thread, taken in turn.

    Both take raw bars and give calibrated forecasts. Weights are random: times don't depend on them. Memory
    is the peak of a process that serves 256 windows, the teacher's in torch, the student's in onnxruntime.
    """
    spec = InputSpec(lookback=120, price=5, embedding=512, context=29, horizons=3)
    rng = np.random.default_rng(0)
    inputs = {
        "ohlcv": rng.uniform(90, 110, (256, 120, 5)).astype(np.float32),
        "context": rng.normal(size=(256, 29)).astype(np.float32),
        "embedding": rng.normal(size=(256, 512)).astype(np.float32),
    }
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, threads(1):
        folder = Path(name)
        calls: dict[str, Callable[[int], object]] = {}
        for model in ("timeformer_xl", "student"):
            torch.manual_seed(0)
            net = parse(plain(compose([f"model={model}"]))).model.build(spec)
            deployed = Deployed(net, _NO_STATISTICS, Calibration.identity(3), raw_bars=True).eval()
            with quietly():
                write_onnx(deployed, {k: v[:2] for k, v in tensors.items()}, folder / f"{model}.onnx")
                write_int8(folder / f"{model}.onnx", folder / f"{model}.int8.onnx")
            calls[f"{model} eager"] = _eager(deployed, tensors)
            for kind in ("onnx", "int8.onnx"):
                calls[f"{model} {kind}"] = _served(OnnxModel(folder / f"{model}.{kind}"), inputs)
        for batch in (1, 256):
            seconds = in_turn({name: partial(call, batch) for name, call in calls.items()}, rounds=20)
            eager = seconds["timeformer_xl eager"]
            best = min(seconds["timeformer_xl onnx"], seconds["timeformer_xl int8.onnx"], eager)
            fp32, int8 = seconds["student onnx"], seconds["student int8.onnx"]
            found |= {
                f"timeformer_xl_eager_ms_at_{batch}": 1000 * eager,
                f"student_onnx_ms_at_{batch}": 1000 * fp32,
                f"student_onnx_times_eager_teacher_at_{batch}": eager / fp32,
                f"student_int8_times_eager_teacher_at_{batch}": eager / int8,
                f"student_times_teacher_s_best_export_at_{batch}": best / min(fp32, int8),
            }
        found["timeformer_xl_eager_peak_mib"] = _peak_of(_SERVE_EAGER)
        found["student_onnx_peak_mib"] = _peak_of(_SERVE_ONNX, str(folder / "student.onnx"))
    return found


_NO_STATISTICS = Fitted([""] * 29, [0.0] * 29, [1.0] * 29, [1.0] * 3, [0.5] * 3)

_SERVE_EAGER = (
    _PEAK
    + """
import torch
from stockenh.compose import compose
from stockenh.config import parse, plain
from stockenh.models.spec import InputSpec
net = parse(plain(compose(["model=timeformer_xl"]))).model.build(InputSpec(120, 5, 512, 29, 3)).eval()
with torch.inference_mode():
    net(torch.rand(256, 120, 5), torch.rand(256, 512), torch.rand(256, 29))
print(peak_mib())
"""
)
_SERVE_ONNX = (
    _PEAK
    + """
import sys
import numpy as np, onnxruntime
net = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
shapes = {"ohlcv": (256, 120, 5), "context": (256, 29), "embedding": (256, 512)}
net.run(None, {name: np.random.rand(*shape).astype(np.float32) for name, shape in shapes.items()})
print(peak_mib())
"""
)


def _peak_of(script: str, *arguments: str) -> float:
    """MiB that a fresh process took at most."""
    command = [sys.executable, "-c", script, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _eager(deployed: Deployed, tensors: dict[str, torch.Tensor]) -> Callable[[int], object]:
    @torch.inference_mode()
    def call(batch: int) -> None:
        deployed(tensors["ohlcv"][:batch], tensors["context"][:batch], tensors["embedding"][:batch])

    return call


def _served(model: OnnxModel, inputs: dict[str, NDArray[np.float32]]) -> Callable[[int], object]:
    return lambda batch: model({name: array[:batch] for name, array in inputs.items()})


def _csv(rng: np.random.Generator) -> str:
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, BARS)))
    opening = close * np.exp(rng.normal(0, 0.005, BARS))
    high, low = np.maximum(opening, close) * 1.01, np.minimum(opening, close) * 0.99
    day = np.busday_offset(np.datetime64("2015-01-05"), np.arange(BARS))
    volume = rng.integers(10**5, 10**7, BARS)
    rows = zip(day, opening, high, low, close, close, volume, strict=True)
    lines = [f"{d},{o:.6f},{h:.6f},{lo:.6f},{c:.6f},{a:.6f},{v}" for d, o, h, lo, c, a, v in rows]
    return "\n".join(["Date,Open,High,Low,Close,Adj Close,Volume", *lines]) + "\n"


def _load(bars: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _LOAD, str(bars), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _median(action: Callable[[], object], runs: int) -> float:
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
