"""Checks and measures a GPU in at most six minutes: `make gpu`, or `python tools/gpu.py --directory DIR`.

Every part runs in a process of its own with its own time limit. A part that fails or takes too long is named,
and the others go on. gpu.json and gpu.md have what was found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import gpu_parts
import psutil
import torch
from gpu_parts import Job

import stockenh
from stockenh.commands.bench.benchmark import describe
from stockenh.commands.bench.figures import Figure, benchmark_markdown, benchmark_table, skipped
from stockenh.report.terminal import console, print_files
from stockenh.storage.files import write_atomic, write_json

SECONDS = 350.0  # of all parts; the rest of six minutes is for the start and the table
# In this order, each with the seconds that it may take: what must be known first comes first.
PARTS = {
    "tests": 60, "poisoned": 20, "tft": 40, "compiled": 60, "streamed": 30, "embeddings": 20, "waits": 20,
    "training": 90, "memory": 30, "inference": 20, "one_process": 20, "commands": 40, "two_processes": 30,
}  # fmt: skip
LEAST = 5.0  # seconds that a part is begun with
NO_GPU = "make gpu: no CUDA device is available here, so nothing was checked or measured"


@dataclass(frozen=True)
class Outcome:
    """How a part ended. state: done, failed or cut off; error: the last line that it printed."""

    part: str
    state: str
    seconds: float
    figures: list[dict[str, Any]]
    error: str = ""


def run_all(device: str, directory: Path, parts: Sequence[str], tiny: bool, seconds: float) -> list[Outcome]:
    """All parts one after another, in so many seconds together."""
    directory.mkdir(parents=True, exist_ok=True)
    until, out, outcomes = time.monotonic() + seconds, console(), []
    for part in parts:
        left = min(until - time.monotonic(), float(PARTS[part]))
        if left < LEAST:
            outcomes.append(Outcome(part, "cut off", 0.0, [], f"the {seconds:.0f} s of all parts are over"))
            continue
        outcomes.append(run_part(part, device, directory, tiny, left))
        made = outcomes[-1]
        out.print(f"{part:<14} {made.state} in {made.seconds:.0f} s {made.error}".rstrip(), soft_wrap=True)
    return outcomes


def run_part(part: str, device: str, directory: Path, tiny: bool, seconds: float) -> Outcome:
    """A part in a process of its own; what it had found counts even if it is cut off."""
    figures, log = directory / f"{part}.jsonl", directory / f"{part}.log"
    figures.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", part, "--device", device, "--directory", str(directory)]
    began, state, error = time.monotonic(), "done", ""
    with log.open("w") as file:
        code = run_command([*command, *(["--tiny"] if tiny else [])], file, seconds)
    if code is None:
        state, error = "cut off", f"after its {seconds:.0f} s"
    elif code:
        state = "failed"
    if state == "failed":
        error = next(reversed(log.read_text(errors="replace").strip().splitlines()), "it printed nothing")
    found = [json.loads(line) for line in figures.read_text().splitlines()] if figures.exists() else []
    return Outcome(part, state, time.monotonic() - began, found, error)


def run_command(command: Sequence[str], output: IO[str], seconds: float) -> int | None:
    """The exit code of a process; None where it took longer, and was ended with all that it had started."""
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.wait()


def do(part: str, device: torch.device, directory: Path, tiny: bool) -> None:
    """A part in this process; its figures are appended to a file, one by one."""

    def give(figure: Figure) -> None:
        with (directory / f"{part}.jsonl").open("a") as file:
            file.write(json.dumps(replace(figure, part=part).to_dict()) + "\n")

    getattr(gpu_parts, part)(Job(device, tiny, give))


def report(outcomes: Sequence[Outcome], device: torch.device, directory: Path, seconds: float) -> bool:
    """Writes and shows what was found; whether every part was done and every check kept.

    An aim of speed or memory that is missed is no failure.
    """
    figures = [figure for outcome in outcomes for figure in _figures(outcome)]
    machine = {**describe(device), "seconds_are": "wall time", **_versions()}
    found = {
        "stockenh": stockenh.__version__,
        "machine": machine,
        "seconds": round(seconds, 1),
        "parts": [{k: v for k, v in asdict(outcome).items() if k != "figures"} for outcome in outcomes],
        "figures": figures,
    }
    write_json(directory / "gpu.json", found)
    write_atomic(directory / "gpu.md", benchmark_markdown(found).encode())
    out = console()
    out.print(benchmark_table(found))
    wrong = [f"{f['part']}: {f['name']}" for f in figures if f["met"] is False and is_check(f)]
    wrong += [
        f"{outcome.part} {outcome.state}: {outcome.error}" for outcome in outcomes if outcome.state != "done"
    ]
    for line in wrong:
        out.print(f"wrong    {line}", soft_wrap=True)
    print_files(out, "gpu", [directory / "gpu.json", directory / "gpu.md"])
    return not wrong


def is_check(figure: Mapping[str, Any]) -> bool:
    """Whether a figure is about right or wrong, not about speed or memory."""
    return not figure["unit"]


def _figures(outcome: Outcome) -> Iterator[dict[str, Any]]:
    yield from outcome.figures
    if outcome.state != "done":
        yield skipped(
            outcome.part, f"the rest of {outcome.part}", f"{outcome.state}: {outcome.error}"
        ).to_dict()


def _versions() -> dict[str, Any]:
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 where all is right, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the script itself")
    parser.add_argument("--directory", type=Path, default=Path("outputs", "gpu"), help="where the results go")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="those to do")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--tiny", action="store_true", help="at the size of a test")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 1
    if given.part:
        do(given.part, device, given.directory, given.tiny)
        return 0
    began = time.monotonic()
    print(json.dumps({**describe(device), **_versions()}))
    outcomes = run_all(given.device, given.directory, given.parts, given.tiny, given.seconds)
    return 0 if report(outcomes, device, given.directory, time.monotonic() - began) else 1


if __name__ == "__main__":
    sys.exit(main())
