"""`torchrun -m stockenh train`: the run that one process makes, in one folder, resumed by any number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import torch
from processes import Process
from safetensors.torch import load_file
from torch.distributed import TCPStore
from waiting import wait_for

from stockenh.training.world import own_rank

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
# 120 train windows in groups of 119: an epoch ends with one row for one process and none for the other
SHORT = [
    "model.dropout=0", "schedule=constant", "train.batch_size=17", "train.accumulate=7", "averaging=ema",
    "train.epochs=2",
]  # fmt: skip
Stockenh = Callable[..., object]
STORES: list[TCPStore] = []  # for as long as the processes that meet there


def start_pair(*arguments: str, cwd: Path, first: str = "") -> list[Process]:
    """Two processes with the environment that torchrun gives them."""
    # bound from here on, as torchrun's own: nobody else can take its port
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    STORES.append(store)
    meeting = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    return [
        processes.start(*arguments, cwd=cwd, first=first, RANK=rank, LOCAL_RANK=rank, **meeting)
        for rank in ("0", "1")
    ]


def end(pair: list[Process]) -> tuple[list[int | None], str, str]:
    """Exit codes, and what both printed."""
    out, err = zip(*(process.communicate() for process in pair), strict=True)
    return [process.returncode for process in pair], "".join(out), "".join(err)


def run_pair(*arguments: str, cwd: Path, first: str = "") -> tuple[list[int | None], str, str]:
    return end(start_pair(*arguments, cwd=cwd, first=first))


def errors(err: str) -> list[str]:
    assert "Traceback" not in err
    return [line for line in err.splitlines() if "stockenh: " in line]


def without(recipe: list[str], key: str) -> list[str]:
    return [word for word in recipe if not word.startswith(key)]


def vector(run: Path, name: str) -> torch.Tensor:
    """All weights of a run in one row."""
    weights = load_file(run / "weights" / f"{name}.safetensors")
    return torch.cat([weights[key].double().flatten() for key in sorted(weights)])


def summary(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "summary.json").read_text()))


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(run: Path, expected: Path) -> None:
    for name in ("raw", "ema"):
        found, wanted = vector(run, name), vector(expected, name)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert summary(run)["val_loss"] == pytest.approx(summary(expected)["val_loss"], rel=1e-5)
    assert summary(run)["steps"] == summary(expected)["steps"]
    for key in ("train_loss", "val_loss", "lr"):
        assert [line[key] for line in lines(run)] == pytest.approx(
            [line[key] for line in lines(expected)], rel=1e-5
        )


def wait_for_checkpoint(run: Path, process: Process | subprocess.Popen[str]) -> None:
    wait_for((run / "checkpoints" / "last.pt").exists, process)


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_each_goes_on_with_the_other(
    stockenh: Stockenh, small_run: list[str], tmp_path: Path
) -> None:
    recipe = without(small_run, "train.epochs") + SHORT
    alone, pair, whole = tmp_path / "alone", tmp_path / "pair", tmp_path / "whole"
    assert stockenh("train", *recipe, f"hydra.run.dir={alone}").code == 0
    assert summary(alone)["parts"]["train"]["h3"]["n"] % 119 == 1

    codes, out, err = run_pair("train", *recipe, f"hydra.run.dir={pair}", cwd=tmp_path)
    assert codes == [0, 0], err
    assert_same_run(pair, alone)
    assert out.count("part  bars") == 1 and "2 processes" in out
    assert {p.name for p in tmp_path.iterdir()} == {"alone", "pair"}
    assert {p.relative_to(pair) for p in pair.rglob("*")} == {p.relative_to(alone) for p in alone.rglob("*")}
    assert not [key for key in load_file(pair / "weights/raw.safetensors") if key.startswith("module.")]
    assert (pair / "run.log").read_text().count("epoch 1:") == 1

    longer = without(recipe, "train.epochs")
    assert stockenh("train", *longer, "train.epochs=4", f"hydra.run.dir={whole}").code == 0
    assert stockenh("train", f"resume={pair}", "train.epochs=4").code == 0
    assert_same_run(pair, whole)
    codes, _, err = run_pair("train", f"resume={alone}", "train.epochs=4", cwd=tmp_path)
    assert codes == [0, 0], err
    assert_same_run(alone, whole)


@pytest.mark.slow
def test_early_stopping_ends_all(small_run: list[str], tmp_path: Path) -> None:
    recipe = [*without(small_run, "train.epochs"), "train.epochs=50", "train.patience=1"]
    rising = ["optimizer.lr=0.3", "schedule=constant", "hydra.run.dir=run"]
    codes, _, err = run_pair("train", *recipe, *rising, cwd=tmp_path)
    assert codes == [0, 0], err
    assert summary(tmp_path / "run")["stopped_early"] and len(lines(tmp_path / "run")) < 50


@pytest.mark.slow
def test_a_stop_reaches_all_and_the_run_goes_on_in_one_process(
    stockenh: Stockenh, small_run: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    endless = ["train.epochs=100000", "train.patience=100000", f"hydra.run.dir={run}"]
    command = [*TORCHRUN, "-m", "stockenh", "train", *without(small_run, "train.epochs"), *endless]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    wait_for_checkpoint(run, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode != 0
    assert err.count("stockenh: stopped; its state is saved. Continue with: ") == 1
    epochs = len(lines(run))
    answer = stockenh("train", f"resume={run}", f"train.epochs={epochs + 1}")
    assert answer.code == 0, answer.err
    assert summary(run)["epochs"] == epochs + 1


@pytest.mark.slow
def test_where_one_is_killed_the_other_ends_with_a_line_and_the_checkpoint_stays(
    stockenh: Stockenh, small_run: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    endless = ["train.epochs=100000", "train.patience=100000", f"hydra.run.dir={run}"]
    pair = start_pair("train", *without(small_run, "train.epochs"), *endless, cwd=tmp_path)
    wait_for_checkpoint(run, pair[0])
    pair[1].send_signal(signal.SIGKILL)
    codes, _, err = end(pair)
    assert codes == [1, -signal.SIGKILL]
    assert "another process of this run is gone" in err and "resume=RUN" in err
    answer = stockenh("train", f"resume={run}", f"train.epochs={len(lines(run)) + 1}")
    assert answer.code == 0, answer.err


# what goes wrong in one process, and what is printed once
ONLY_RANK = "import os\nif os.environ['RANK'] == '{}':\n    {}\n"
NO_BARS = """
    from stockenh.config import build
    from stockenh.errors import DataError
    def data(*anything):
        raise DataError("/data/AAA.csv: no such file")
    build.data = data
"""
FULL_DISK = """
    from stockenh.storage.files import DiskError
    from stockenh.training.checkpoint import FolderJournal
    def pause(self, state):
        raise DiskError("last.pt can't be written: no space left")
    FolderJournal.pause = pause
"""
NO_MEMORY = """
    from stockenh.training.distributed import DistributedStep
    def forward(self, *inputs, **options):
        raise RuntimeError("out of memory")
    DistributedStep.forward = forward
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "fault", "arguments", "code", "printed"),
    [
        (1, NO_BARS, [], 1, ["process 1 of 2 on ", ": /data/AAA.csv: no such file"]),
        (0, FULL_DISK, [], 1, ["last.pt can't be written: no space left"]),
        (0, NO_MEMORY, [], 1, ["process 0 of 2: RuntimeError: out of memory"]),
        (0, "pass", ["train.batch_size=0"], 2, ["train.batch_size=0"]),
        (
            0,
            "pass",
            ["optimizer.lr=1e30", "schedule=constant", "train.epochs=3"],
            1,
            ["a lower optimizer.lr"],
        ),
    ],
    ids=["data", "disk", "memory", "config", "loss"],
)
def test_an_error_ends_all_with_one_line(
    small_run: list[str], tmp_path: Path, rank: int, fault: str, arguments: list[str], code: int,
    printed: list[str],
) -> None:  # fmt: skip
    first = ONLY_RANK.format(rank, fault.strip())
    recipe = without(small_run, "train.epochs") if len(arguments) > 1 else small_run
    codes, _, err = run_pair("train", *recipe, *arguments, "hydra.run.dir=run", cwd=tmp_path, first=first)
    assert codes == [code, code], err
    (line,) = errors(err)
    assert all(text in line for text in printed), line
    assert not list((tmp_path / "run").glob("checkpoints/last.pt"))


def as_rank(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number), "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("command", [["find-lr"], ["sweep"], ["runs"], ["train", "seed=1,2", "--multirun"]])
def test_what_takes_one_process_is_refused_in_several_and_one_of_them_says_so(
    command: list[str], stockenh: Stockenh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    as_rank(0, monkeypatch)
    first = stockenh(*command)
    assert first.code == 2 and "takes one process, and torchrun has started 2" in first.err
    assert first.err.count("\n") == 1
    as_rank(1, monkeypatch)
    other = stockenh(*command)
    assert (other.code, other.out, other.err) == (2, "", "")
    assert not list(tmp_path.iterdir())


def test_half_an_environment_is_refused(stockenh: Stockenh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    answer = stockenh("train")
    assert answer.code == 2
    assert "WORLD_SIZE=4 without RANK" in answer.err and "torchrun" in answer.err


def test_one_process_of_torchrun_is_a_single_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert own_rank() is None
    as_rank(1, monkeypatch)
    own = own_rank()
    assert own is not None and not own.is_first
    assert os.environ["RANK"] == "1"
