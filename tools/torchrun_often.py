"""Trains a tiny run with two torchrun agents on this machine, many times, and says how each ended.

    python tools/torchrun_often.py [--times 50] [--backend c10d|static] [--keep DIR]

Two agents stand for two machines with a process each. A hang is ended after --seconds. Exit code 1 where one
time an agent or a process did not end with 0.
"""

from __future__ import annotations

import argparse
import collections
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = (
    "data=synthetic data.symbols=6 data.bars=220 data.lookback=20 data.horizons=[1,2] embedding=none "
    "device=cpu split.val=0.25 split.test=0.25 train.epochs=2 train.batch_size=64 "
    "model.d_model=16 model.layers=1 model.heads=2 model.ffn=16"
)


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def once(folder: Path, backend: str, seconds: float) -> tuple[list[int | str], float]:
    """Exit codes of both agents, "hang" for one that had to be killed, and the seconds that all took."""
    endpoint = f"localhost:{free_port()}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launch += [f"--rdzv-backend={backend}", f"--rdzv-endpoint={endpoint}"]
    train = ["-m", "stockenh", "train", *RECIPE.split(), f"hydra.run.dir={folder / 'run'}"]
    environment = {**os.environ, "STOCKENH_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    began, agents = time.monotonic(), []
    for number in range(2):
        rank = [f"--node-rank={number}"] if backend == "static" else []
        with (folder / f"agent{number}.log").open("wb") as log:
            agents.append(
                subprocess.Popen(
                    [*launch, *rank, *train], cwd=folder, env=environment, stdout=log, stderr=log,
                    start_new_session=True,
                )
            )  # fmt: skip
    codes: list[int | str] = []
    for agent in agents:
        try:
            codes.append(agent.wait(max(began + seconds - time.monotonic(), 0.0)))
        except subprocess.TimeoutExpired:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
            codes.append("hang")
    return codes, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--backend", choices=["c10d", "static"], default="c10d")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--keep", type=Path, help="keeps what the agents print")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        home = Path(options.keep or made).resolve()
        took, ended = [], collections.Counter[str]()
        for number in range(options.times):
            folder = home / str(number)
            folder.mkdir(parents=True)
            codes, seconds = once(folder, options.backend, options.seconds)
            took.append(seconds)
            logs = "".join((folder / f"agent{n}.log").read_text(errors="replace") for n in range(2))
            if not (folder / "run/summary.json").exists():
                codes.append("no result")
            ended[str(codes)] += 1
            print(f"{number + 1}: {codes} in {seconds:.1f} s", flush=True)
            if codes != [0, 0]:
                print(logs, flush=True)
    print(f"exit codes {dict(ended)}; median {statistics.median(took):.1f} s, longest {max(took):.1f} s")
    return int(set(ended) != {"[0, 0]"})


if __name__ == "__main__":
    raise SystemExit(main())
