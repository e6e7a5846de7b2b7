"""`torchrun -m stockenh train`: the run that one process makes, in one folder, resumed by any number."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from processes import Hold, Process, start_pair
from safetensors.torch import load_file
from torch.distributed import TCPStore
from waiting import wait_for

from stockenh.training.distributed import _meeting
from stockenh.training.world import Rank, own_rank

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
# 120 train windows in groups of 119: an epoch ends with one row for one process and none for the other
SHORT = [
    "model.dropout=0", "schedule=constant", "train.batch_size=17", "train.accumulate=7", "averaging=ema",
    "train.epochs=2",
]  # fmt: skip


def end(pair: list[Process]) -> tuple[list[int | None], str, str]:
    """Exit codes, and what both printed."""
    out, err = zip(*(process.communicate() for process in pair), strict=True)
    return [process.returncode for process in pair], "".join(out), "".join(err)


def run_pair(*arguments: str, cwd: Path, first: str = "") -> tuple[list[int | None], str, str]:
    return end(start_pair(*arguments, cwd=cwd, first=first))


def errors(err: str) -> list[str]:
    assert "Traceback" not in err
    return [line for line in err.splitlines() if "stockenh: " in line]


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
        own, others = ([line[key] for line in lines(of)] for of in (run, expected))
        assert own == pytest.approx(others, rel=1e-5)


ENDLESS = ["train.epochs=100000", "train.patience=100000", "hydra.run.dir=run"]


def wait_for_checkpoint(process: Process | subprocess.Popen[str], run: Path) -> None:
    wait_for((run / "checkpoints" / "last.pt").exists, process)


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_each_goes_on_with_the_other(stockenh, small_run, tmp_path):
    recipe = small_run + SHORT
    alone, pair, whole = tmp_path / "alone", tmp_path / "pair", tmp_path / "whole"
    stockenh("train", *recipe, f"hydra.run.dir={alone}", code=0)
    assert summary(alone)["parts"]["train"]["h3"]["n"] % 119 == 1

    codes, out, err = run_pair("train", *recipe, f"hydra.run.dir={pair}", cwd=tmp_path)
    assert codes == [0, 0], err
    assert_same_run(pair, alone)
    assert out.count("part  bars") == 1 and "2 processes" in out
    assert {p.name for p in tmp_path.iterdir()} == {"alone", "pair"}
    assert {p.relative_to(pair) for p in pair.rglob("*")} == {p.relative_to(alone) for p in alone.rglob("*")}
    assert not [key for key in load_file(pair / "weights/raw.safetensors") if key.startswith("module.")]
    assert (pair / "run.log").read_text().count("epoch 1:") == 1

    stockenh("train", *recipe, "train.epochs=4", f"hydra.run.dir={whole}", code=0)
    stockenh("train", f"resume={pair}", "train.epochs=4", code=0)
    assert_same_run(pair, whole)
    codes, _, err = run_pair("train", f"resume={alone}", "train.epochs=4", cwd=tmp_path)
    assert codes == [0, 0], err
    assert_same_run(alone, whole)


@pytest.mark.deep
def test_early_stopping_ends_all(small_run, tmp_path):
    rising = ["train.epochs=50", "train.patience=1", "optimizer.lr=0.3", "schedule=constant"]
    codes, _, err = run_pair("train", *small_run, *rising, "hydra.run.dir=run", cwd=tmp_path)
    assert codes == [0, 0], err
    assert summary(tmp_path / "run")["stopped_early"] and len(lines(tmp_path / "run")) < 50


@pytest.mark.slow
def test_a_stop_reaches_all_and_the_run_goes_on_in_one_process(stockenh, small_run, tmp_path):
    run = tmp_path / "run"
    command = [*TORCHRUN, "-m", "stockenh", "train", *small_run, *ENDLESS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)
    wait_for_checkpoint(process, run)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode != 0
    assert err.count("stockenh: stopped; its state is saved. Continue with: ") == 1
    epochs = len(lines(run))
    stockenh("train", f"resume={run}", f"train.epochs={epochs + 1}", code=0)
    assert summary(run)["epochs"] == epochs + 1


@pytest.mark.deep
def test_where_one_is_killed_the_other_ends_and_the_checkpoint_stays(stockenh, small_run, tmp_path):
    run = tmp_path / "run"
    pair = start_pair("train", *small_run, *ENDLESS, cwd=tmp_path)
    wait_for_checkpoint(pair[0], run)
    pair[1].send_signal(signal.SIGKILL)
    codes, _, err = end(pair)
    assert codes == [1, -signal.SIGKILL]
    assert "another process of this run is gone" in err and "resume=RUN" in err
    stockenh("train", f"resume={run}", f"train.epochs={len(lines(run)) + 1}", code=0)


def ranks_of(torchrun: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The processes that torchrun has started, by rank."""
    return {child.environ()["RANK"]: child for child in psutil.Process(torchrun.pid).children()}


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", pytest.param("1", marks=pytest.mark.deep)])
@pytest.mark.parametrize(
    "where", [[], pytest.param(["hydra.run.dir=a run (1)"], marks=pytest.mark.deep)], ids=["default", "named"]
)
def test_torchrun_restarts_a_run_where_it_was(stockenh, small_run, tmp_path, rank, where):
    recipe = [*small_run, *SHORT, "train.epochs=3"]
    stockenh("train", *recipe, f"hydra.run.dir={tmp_path / 'whole'}", code=0)
    hold = Hold(tmp_path / "hold", epochs=2)
    own = tmp_path / "own"
    own.mkdir()
    command = [*TORCHRUN, "--max-restarts=1", "-m", "stockenh", "train", *recipe, *where]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    torchrun = subprocess.Popen(command, cwd=own, text=True, env={**os.environ, **hold.environment}, **pipes)
    hold.wait_for(torchrun)
    ranks_of(torchrun)[rank].kill()
    hold.release()
    out, err = torchrun.communicate()
    assert torchrun.returncode == 0, err
    (run,) = (path.parent for path in own.rglob("summary.json"))
    assert_same_run(run, tmp_path / "whole")
    assert [line["epoch"] for line in lines(run)] == [1, 2, 3]
    assert (run / "run.log").read_text().count("resumed") == 1
    assert out.count("restart  torchrun") == 1 and str(run) in out


def test_the_processes_of_each_start_share_a_store_of_their_own(monkeypatch):
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    place = {"USE_AGENT_STORE": "True", "RESTART_COUNT": "0"}  # as a failure on another machine leaves it
    environment = {f"TORCHELASTIC_{name}": value for name, value in place.items()}
    for name, value in {**environment, "MASTER_ADDR": "localhost", "MASTER_PORT": str(server.port)}.items():
        monkeypatch.setenv(name, value)
    server.set("stockenh/2", "left by a process that has ended")
    for _ in range(2):
        with ThreadPoolExecutor(3) as processes:
            stores = [met["store"] for met in processes.map(_meeting, [Rank(r, r, 3) for r in (1, 2, 0)])]
        assert not any(store.check(["address"]) for store in stores)
        stores[0].set("address", "here")
        assert [store.get("address") for store in stores] == [b"here"] * 3


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
        pytest.param(1, NO_BARS, "", 1, "process 1 of 2 on .*: /data/AAA.csv: no such file", id="data"),
        pytest.param(0, FULL_DISK, "", 1, "last.pt can't be written: no space left", id="disk"),
        *(
            pytest.param(0, *case, id=name, marks=pytest.mark.deep)
            for name, case in {
                "memory": (NO_MEMORY, "", 1, "process 0 of 2: RuntimeError: out of memory"),
                "config": ("pass", "train.batch_size=0", 2, "train.batch_size=0"),
                "loss": (
                    "pass",
                    "optimizer.lr=1e30 schedule=constant train.epochs=3",
                    1,
                    "a lower optimizer.lr",
                ),
            }.items()
        ),
    ],
)
def test_an_error_ends_all_with_one_line(small_run, tmp_path, rank, fault, arguments, code, printed):
    first = ONLY_RANK.format(rank, fault.strip())
    recipe = [*small_run, *arguments.split(), "hydra.run.dir=run"]
    codes, _, err = run_pair("train", *recipe, cwd=tmp_path, first=first)
    assert codes == [code, code], err
    (line,) = errors(err)
    assert re.search(printed, line), line
    assert not list((tmp_path / "run").glob("checkpoints/last.pt"))


def as_rank(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"WORLD_SIZE": 2, "RANK": number, "LOCAL_RANK": number, "MASTER_PORT": 1}
    for name, value in {**place, "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("command", ["find-lr", "sweep", "runs", "train seed=1,2 --multirun"])
def test_what_takes_one_process_is_refused_by_the_first_of_several(
    command, stockenh, refused, monkeypatch, here
):
    as_rank(0, monkeypatch)
    assert "takes one process, and torchrun has started 2" in refused(*command.split())
    as_rank(1, monkeypatch)
    other = stockenh(*command.split(), code=2)
    assert (other.out, other.err) == ("", "")
    assert not list(here.iterdir())


def test_half_an_environment_is_refused(stockenh, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    err = stockenh("train", code=2).err
    assert "WORLD_SIZE=4 without RANK" in err and "torchrun" in err


def test_one_process_of_torchrun_is_a_single_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert own_rank() is None
    as_rank(1, monkeypatch)
    own = own_rank()
    assert own is not None and not own.is_first
    assert os.environ["RANK"] == "1"


def test_batches_of_whole_days_take_one_process(small_run, tmp_path):
    codes, _, err = run_pair("train", *small_run, "train.batch=date", "hydra.run.dir=run", cwd=tmp_path)
    assert codes == [2, 2]
    (line,) = errors(err)
    assert "train.batch=date" in line and "torchrun" in line
    assert not (tmp_path / "run").exists()
