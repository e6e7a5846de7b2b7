"""`torchrun -m stockenh train`: the run that one process makes, in one folder, taken up by any number."""

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
from safetensors.torch import load_file
from torch.distributed import TCPStore
from waiting import wait_for

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
# 120 train windows in groups of 119: an epoch ends with one row for one process and none for the other
SHORT = [
    "model.dropout=0", "schedule=constant", "train.batch_size=17", "train.accumulate=7", "averaging=ema",
    "train.epochs=2",
]  # fmt: skip


def as_torchrun(*arguments: str, cwd: Path, first: str = "") -> tuple[list[int | None], str, str]:
    """Two processes with the environment that torchrun gives them: exit codes, and what both said."""
    # bound from here on, as torchrun's own: nobody else can take its port
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    meeting = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    pair = [
        processes.start(*arguments, cwd=cwd, first=first, RANK=rank, LOCAL_RANK=rank, **meeting)
        for rank in ("0", "1")
    ]
    out, err = zip(*(process.communicate() for process in pair), strict=True)
    return [process.returncode for process in pair], "".join(out), "".join(err)


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


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_each_goes_on_with_the_other(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path
) -> None:
    recipe = [word for word in small_run if not word.startswith("train.epochs")] + SHORT
    alone, pair, whole = tmp_path / "alone", tmp_path / "pair", tmp_path / "whole"
    assert stockenh("train", *recipe, f"hydra.run.dir={alone}").code == 0
    assert summary(alone)["parts"]["train"]["h3"]["n"] % 119 == 1

    codes, out, err = as_torchrun("train", *recipe, f"hydra.run.dir={pair}", cwd=tmp_path)
    assert codes == [0, 0], err
    assert_same_run(pair, alone)
    assert out.count("part  bars") == 1 and "2 processes" in out
    assert {p.name for p in tmp_path.iterdir()} == {"alone", "pair"}
    assert {p.relative_to(pair) for p in pair.rglob("*")} == {p.relative_to(alone) for p in alone.rglob("*")}
    assert not [key for key in load_file(pair / "weights/raw.safetensors") if key.startswith("module.")]
    assert (pair / "run.log").read_text().count("epoch 1:") == 1

    longer = [word for word in recipe if word != "train.epochs=2"]
    assert stockenh("train", *longer, "train.epochs=4", f"hydra.run.dir={whole}").code == 0
    assert stockenh("train", f"resume={pair}", "train.epochs=4").code == 0
    assert_same_run(pair, whole)
    codes, _, err = as_torchrun("train", f"resume={alone}", "train.epochs=4", cwd=tmp_path)
    assert codes == [0, 0], err
    assert_same_run(alone, whole)


@pytest.mark.slow
def test_a_stop_reaches_all_and_the_run_goes_on_in_one_process(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    recipe = [word for word in small_run if not word.startswith("train.epochs")]
    endless = ["train.epochs=100000", "train.patience=100000", f"hydra.run.dir={run}"]
    command = [*TORCHRUN, "-m", "stockenh", "train", *recipe, *endless]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    wait_for((run / "checkpoints" / "last.pt").exists, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode != 0
    assert said.count("stockenh: stopped; its state is saved. Continue with: ") == 1
    epochs = len(lines(run))
    answer = stockenh("train", f"resume={run}", f"train.epochs={epochs + 1}")
    assert answer.code == 0, answer.err
    assert summary(run)["epochs"] == epochs + 1


NO_BARS = """
import os
from stockenh import build
from stockenh.errors import DataError

def data(*anything):
    raise DataError("/data/AAA.csv: no such file")

if os.environ["RANK"] == "1":
    build.data = data
"""


@pytest.mark.slow
def test_what_keeps_another_process_from_taking_part_is_said_once(
    small_run: list[str], tmp_path: Path
) -> None:
    codes, _, err = as_torchrun("train", *small_run, "hydra.run.dir=run", cwd=tmp_path, first=NO_BARS)
    assert 0 not in codes and None not in codes
    (line,) = [line for line in err.splitlines() if "stockenh: " in line]
    assert line.startswith("stockenh: process 1 of 2 on ") and line.endswith(": /data/AAA.csv: no such file")
    assert not (tmp_path / "run" / "checkpoints").exists()


def as_process(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number), "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("command", [["find-lr"], ["sweep"], ["runs"], ["train", "seed=1,2", "--multirun"]])
def test_what_takes_one_process_is_refused_in_several_and_one_of_them_says_so(
    command: list[str], stockenh: Callable[..., object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    as_process(0, monkeypatch)
    first = stockenh(*command)
    assert first.code == 2 and "takes one process, and torchrun has started 2" in first.err
    assert first.err.count("\n") == 1
    as_process(1, monkeypatch)
    other = stockenh(*command)
    assert (other.code, other.out, other.err) == (2, "", "")
    assert not list(tmp_path.iterdir())


def test_half_an_environment_is_refused(
    stockenh: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    answer = stockenh("train")
    assert answer.code == 2
    assert "WORLD_SIZE=4 without RANK" in answer.err and "torchrun" in answer.err


def test_one_process_of_torchrun_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from stockenh.training.world import place

    monkeypatch.setenv("WORLD_SIZE", "1")
    assert place() is None
    as_process(1, monkeypatch)
    assert place() is not None and not place().leads
    assert os.environ["RANK"] == "1"
