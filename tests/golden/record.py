"""Runs the list of `configs.py`, reduces each run to hashes, and keeps them in `expected.json` by machine.

    python tests/golden/record.py [NAME]...           # records the installed code (all names, or some)
    PYTHONPATH=OTHER python tests/golden/record.py    # records the code of another checkout
    python tests/golden/record.py --check [NAME]...   # compares with the record and changes nothing

Bits hold only where the kernels are the same, so a record belongs to one kind of machine: see `machine`. On a
machine without a record, record an older checkout with the second command, then run the test or `--check`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from bars import write_bars, write_ready_windows
from configs import CONFIGS
from processes import start
from safetensors import safe_open

EXPECTED = Path(__file__).with_name("expected.json")
KRONOS = Path(__file__).parents[1] / "kronos_tiny"

# One thread: how many share a sum decides its order. Drawing pictures takes longer than these runs.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
UNDRAWN = """
from pathlib import Path
from matplotlib.figure import Figure
from stockenh.report.page import Picture
Figure.savefig = lambda figure, *_, **__: None
Picture.svg = "<svg></svg>"
"""
# of summary.json: all that does not depend on the clock or the free memory
FIGURES = (
    "parts", "by_weights", "weights", "parameters", "windows", "precision", "epochs", "best_epoch",
    "val_loss", "stopped_early", "steps", "skipped_steps", "seed",
)  # fmt: skip
LATER = ("up_share",)  # of a part: what follows from its labels, and came after records of some machines
# of a line of metrics.jsonl: the weights are those of the best epoch, and these cover the epochs after it
EPOCH_FIGURES = ("epoch", "steps", "skipped", "lr", "train_loss", "val_loss")
FORECAST_COLUMNS = 7  # of forecast.csv: those after them, score and rank, follow from these
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "polars")


def machine() -> dict[str, str]:
    """What decides the bits of a run.

    Versions: of the libraries that compute. Vendor, family and model of the processor: MKL chooses kernels by
    the vendor, and MKL and oneDNN block sizes by the caches. Its vector instructions (a hash): torch, oneDNN
    and numpy choose by them, and a hypervisor may hide some. The C library: Python's `math` is its own.
    """
    cpu, flags, cpuinfo = platform.processor() or "unknown", [], Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first, names = cpuinfo.read_text().split("\n\n")[0], "vendor_id|cpu family|model|flags"
        fields = dict(re.findall(rf"^({names})\s*: *(.*?) *$", first, re.MULTILINE))
        flags = sorted(f for f in fields.pop("flags", "").split() if re.match("avx|amx|sse|ssse|fma|f16c", f))
        cpu = " ".join(fields.values()) or cpu
    return {
        **{name: version(name) for name in LIBRARIES},
        "architecture": platform.machine(),
        "cpu": cpu,
        "vector_instructions": _sha256(" ".join(flags))[:16],
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "libc": " ".join(platform.libc_ver()),
    }


def machine_key() -> str:
    """The key of this machine in expected.json."""
    return _sha256(json.dumps(machine(), sort_keys=True))[:16]


def load_expected() -> dict[str, Any] | None:
    """What is recorded for this machine: name to results."""
    record = json.loads(EXPECTED.read_text()).get(machine_key()) if EXPECTED.exists() else None
    return record["results"] if record else None


def write_inputs(folder: Path) -> None:
    """The bars, the ready windows and the Kronos checkpoint that the commands name."""
    (folder / "bars").mkdir(parents=True)
    for number, symbol in enumerate(("AAA", "BBB")):
        write_bars(folder / "bars" / f"{symbol}.csv", seed=number)
    shutil.copytree(KRONOS, folder / "kronos")
    write_ready_windows(folder / "windows.parquet")


def results_of(name: str, folder: Path) -> dict[str, Any]:
    """Runs the commands of a name in a new folder beside the inputs. File to hash of what they left."""
    folder.mkdir()
    for command in CONFIGS[name]:
        _run(shlex.split(command), folder)
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = str(file.relative_to(folder))
        if file.match("weights/*.safetensors"):
            found[place] = _hash_weights(file)
        elif file.name == "summary.json":
            summary = json.loads(file.read_text())
            figures = {figure: _without_later(summary.get(figure)) for figure in FIGURES}
            digest = _sha256(json.dumps(figures, sort_keys=True))
            found[place] = {"val_loss": summary.get("val_loss"), "sha256": digest}
        elif file.name == "metrics.jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            found[place] = _sha256(json.dumps([[line[figure] for figure in EPOCH_FIGURES] for line in lines]))
        elif file.name == "forecast.csv":
            rows = (line.split(",")[:FORECAST_COLUMNS] for line in file.read_text().splitlines())
            found[place] = _sha256("".join(",".join(row) + "\n" for row in rows))
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """A line per file whose hash is another, is missing or is new."""
    return [
        f"{place}: {found.get(place, 'missing')}, recorded {expected.get(place, 'nothing')}"
        for place in sorted(found.keys() | expected.keys())
        if found.get(place) != expected.get(place)
    ]


def _run(command: list[str], folder: Path) -> None:
    environments: list[dict[str, str]] = [{}]
    if command[0] == "torchrun":
        command = command[1:]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            meeting = {
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(free.getsockname()[1]),
                "WORLD_SIZE": "2",
            }
        environments = [{**meeting, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    started = [start(*command, cwd=folder, first=UNDRAWN, **ONE_THREAD, **extra) for extra in environments]
    for process in started:
        _, errors = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"stockenh {shlex.join(command)} ended with {process.returncode}: {errors}")


def _hash_weights(file: Path) -> str:
    """Of the name, type, shape and bytes of every tensor, sorted by name."""
    digest = hashlib.sha256()
    with safe_open(file, framework="pt") as weights:
        for name in sorted(weights.keys()):
            tensor = weights.get_tensor(name).contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without_later(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _without_later(value) for key, value in found.items() if key not in LATER}
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of configs.py; none: all of them")
    parser.add_argument("--check", action="store_true", help="compare with the record and change nothing")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder that keeps the runs")
    options = parser.parse_args()
    if unknown := set(options.names) - CONFIGS.keys():
        parser.error(f"no such name: {', '.join(sorted(unknown))}. Names: {', '.join(CONFIGS)}")
    expected = load_expected()
    if options.check and expected is None:
        parser.error(f"nothing is recorded for this machine: {machine()}")

    print(f"code     {importlib.util.find_spec('stockenh').origin}\nmachine  {machine()}")
    results, differing, start_time = {}, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "golden"
        os.environ["STOCKENH_CACHE"] = str(Path(temporary) / "cache")
        write_inputs(folder / "inputs")
        for name in options.names or CONFIGS:
            start_of_run = time.monotonic()
            results[name] = results_of(name, folder / name)
            lines = differences(results[name], (expected or {}).get(name, {})) if options.check else []
            differing += bool(lines)
            seconds = time.monotonic() - start_of_run
            print(f"{name:24}{seconds:5.1f} s  {'differs' if lines else ''}", *lines, sep="\n  ", flush=True)
    print(f"{len(results)} names in {time.monotonic() - start_time:.0f} s, {differing} differ")
    if not options.check:
        records = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
        merged = {**(expected or {}), **results}
        ordered = {name: merged[name] for name in CONFIGS if name in merged}
        records[machine_key()] = {"machine": machine(), "results": ordered}
        EXPECTED.write_text(json.dumps(records, indent=1) + "\n")
        print(f"record   {EXPECTED}, {machine_key()}")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
