"""A run that was stopped, killed, moved or tampered with goes on with the same bits, or is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from conftest import SMALL, same, write_bars
from processes import Hold
from safetensors.torch import load_file

from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint

Stockenh = Callable[..., Any]

RUN = (*SMALL, "train.epochs=6", "train.accumulate=2", "train.batch_size=16")


def train(*arguments: str, first: str = "") -> subprocess.CompletedProcess[str]:
    return processes.run("train", *arguments, first=first)


def epochs(run: Path) -> int:
    return len(RunFolder(run).read_metrics())


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run / "checkpoints" / "last.pt")["learner"]["model"])


def figures(run: Path) -> dict[str, object]:
    """What a summary says, but for what it took."""
    summary = json.loads((run / "summary.json").read_text())
    return {k: v for k, v in summary.items() if "second" not in k}


@pytest.fixture(scope="session")
def whole(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = train(*RUN, f"data.path={bars}", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def unfinish(run: Path, **state: int) -> None:
    """Makes a finished run look like one that has work left."""
    (run / "summary.json").unlink()


def test_a_run_folder_holds_what_it_should(whole: Path) -> None:
    there = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()} - {".lock"}
    assert there == {
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "config.yaml", "run.log",
        "metrics.jsonl", "summary.json", "manifest.json", "fitted.json", "checkpoints/last.pt",
        "checkpoints/best.pt", "weights/raw.safetensors", "report/curves.png", "report/accuracy.png",
        "report/reliability.png", "calibration.json", "confidence.json",
    }  # fmt: skip
    summary = json.loads((whole / "summary.json").read_text())
    assert set(summary["parts"]) == {"train", "val", "test"}
    for part in summary["parts"].values():
        assert set(part) == {"h3", "h5", "h10"}
        for metrics in part.values():
            assert {"n", "ties", "accuracy", "majority", "log_loss", "brier", "auc", "mae"} <= set(metrics)
    for part in ("val", "test"):
        for metrics in summary["parts"][part].values():
            assert {"log_loss_calibrated", "brier_calibrated", "ece", "ece_calibrated"} <= set(metrics)
    assert summary["weights"] == "raw" and summary["precision"] == "fp32" and summary["device"] == "cpu"
    assert summary["windows"] == sum(part["h3"]["n"] for part in summary["parts"].values())
    manifest = json.loads((whole / "manifest.json").read_text())
    assert {"stockenh", "libraries", "git_commit", "data", "device"} <= set(manifest)
    assert manifest["libraries"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert "epoch 6: train loss" in (whole / "run.log").read_text()


def test_the_summary_is_that_of_the_best_epoch_on_validation(whole: Path) -> None:
    lines = RunFolder(whole).read_metrics()
    best = min(lines, key=lambda line: line["val_loss"])
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["best_epoch"] == best["epoch"] and summary["val_loss"] == best["val_loss"]
    for horizon, metrics in best["val"].items():
        told = summary["parts"]["val"][horizon]
        assert told["accuracy"] == metrics["accuracy"] and told["log_loss"] == metrics["log_loss"]
    kept = checkpoint.load(whole / "checkpoints" / "best.pt")
    assert same(kept["weights"]["raw"], load_file(whole / "weights" / "raw.safetensors"))


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(
    stockenh: Stockenh, whole: Path, bars: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = [*RUN, f"data.path={bars}", f"hydra.run.dir={run}", "train.checkpoint_minutes=1e-9"]
    moments = [
        Hold(tmp_path / "a", "last.pt"),  # before anything was learnt
        Hold(tmp_path / "b", "last.pt", write=3),  # within the first epoch
        Hold(tmp_path / "c", "metrics.jsonl", epochs=3),  # at the end of one
        Hold(tmp_path / "d", "last.pt", epochs=5, write=3),
    ]
    for number, moment in enumerate(moments):
        process = processes.start("train", *(first if number == 0 else [f"resume={run}"]), hold=moment)
        moment.wait_for(process)
        assert epochs(run) == moment.epochs and (run / "checkpoints/last.pt").exists() == (number > 0)
        process.kill()
    hydra = {p.name: p.read_bytes() for p in (run / ".hydra").iterdir()}
    (run / "checkpoints" / ".last.pt.x.part").touch()  # as a kill within a write leaves one
    done = stockenh("train", f"resume={run}")
    assert done.code == 0, done.err
    assert same(final_weights(run), final_weights(whole))
    assert same(load_file(run / "weights/raw.safetensors"), load_file(whole / "weights/raw.safetensors"))
    assert figures(run) == figures(whole)
    assert [line["epoch"] for line in RunFolder(run).read_metrics()] == [1, 2, 3, 4, 5, 6]
    assert {p.name: p.read_bytes() for p in (run / ".hydra").iterdir()} == hydra
    assert not [p for p in run.rglob(".*") if p.name not in (".hydra", ".lock")]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_says_how_to_go_on_and_does(
    stockenh: Stockenh, whole: Path, bars: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    run = tmp_path / "a run (1)"
    moment = Hold(tmp_path / "hold", epochs=2)
    process = processes.start("train", *RUN, f"data.path={bars}", f"hydra.run.dir={run}", hold=moment)
    moment.wait_for(process)
    process.send_signal(sent)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said and f"resume='{run}'" in said
    assert not (run / "summary.json").exists()
    done = stockenh("train", f"resume={run}")
    assert done.code == 0, done.err
    assert same(final_weights(run), final_weights(whole))
    assert figures(run) == figures(whole)


def test_a_finished_run_says_so_and_stays_as_it_is(stockenh: Stockenh, copy: Path) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    done = stockenh("train", f"resume={copy}")
    assert done.code == 0
    assert "is finished (all epochs done)" in done.out and "majority" in done.out
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_more_epochs_go_on_from_the_last(stockenh: Stockenh, copy: Path) -> None:
    done = stockenh("train", f"resume={copy}", "train.epochs=7")
    assert done.code == 0, done.err
    assert [line["epoch"] for line in RunFolder(copy).read_metrics()] == [1, 2, 3, 4, 5, 6, 7]
    assert RunFolder(copy).read_config()["train"]["epochs"] == 7
    assert json.loads((copy / "summary.json").read_text())["epochs"] == 7


def test_fewer_epochs_than_are_done_are_refused_and_nothing_changes(stockenh: Stockenh, copy: Path) -> None:
    (copy / "summary.json").unlink()
    done = epochs(copy)
    before = (copy / "config.yaml").read_bytes()
    refused = stockenh("train", f"resume={copy}", f"train.epochs={done - 1}")
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert f"train.epochs={done - 1}: {copy} has done {done} epochs of {done} already" in refused.err
    assert (copy / "config.yaml").read_bytes() == before


@pytest.mark.slow
def test_moved_with_its_data_it_judges_the_same_and_goes_on(
    stockenh: Stockenh, whole: Path, bars: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "elsewhere" / "run"))
    data = Path(shutil.copytree(bars, tmp_path / "elsewhere" / "bars"))
    config = (
        (run / "config.yaml")
        .read_text()
        .replace(str(bars), "/nowhere/bars")
        .replace("device: auto", "device: cuda:3")
    )
    (run / "config.yaml").write_text(config)
    unfinish(run)
    lost = stockenh("train", f"resume={run}")
    assert lost.code == 2 and "/nowhere/bars" in lost.err and "data.path" in lost.err
    done = stockenh("train", f"resume={run}", f"data.path={data}")
    assert done.code == 0, done.err
    assert "device=cuda:3 of the run is not available here" in done.out
    assert figures(run) == figures(whole)


def test_other_bars_are_refused(stockenh: Stockenh, copy: Path, tmp_path: Path) -> None:
    unfinish(copy)
    other = write_bars(tmp_path / "other", bars=201)
    done = stockenh("train", f"resume={copy}", f"data.path={other}")
    assert done.code == 2
    assert "not those that this run was trained on" in done.err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("loss=huber_bce", "loss can't be given with resume"),
        ("train.epoch=9", "Nearest: train.epochs"),
        ("--multirun", "--multirun can't be given with resume"),
        ("device=cuda", "device=cuda"),
        ("train.epochs=many", "train.epochs"),
    ],
)
def test_only_three_things_may_change(stockenh: Stockenh, copy: Path, override: str, says: str) -> None:
    unfinish(copy)
    done = stockenh("train", f"resume={copy}", override)
    assert done.code == 2 and says in done.err
    assert len(done.err.strip().splitlines()) <= 2


def test_a_folder_that_holds_a_run_is_not_trained_over(stockenh: Stockenh, whole: Path, bars: Path) -> None:
    hydra = (whole / ".hydra" / "overrides.yaml").read_bytes()
    done = stockenh("train", *RUN, f"data.path={bars}", "seed=7", f"hydra.run.dir={whole}")
    assert done.code == 2 and "already holds a run" in done.err
    assert (whole / ".hydra" / "overrides.yaml").read_bytes() == hydra


def test_two_processes_do_not_train_in_one_folder(copy: Path) -> None:
    unfinish(copy)
    with RunFolder(copy).lock():
        done = train(f"resume={copy}")
    assert done.returncode == 2 and "another process is training" in done.stderr


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("checkpoints/last.pt", "short", "damaged"),
        ("checkpoints/last.pt", "hostile", "damaged"),
        ("checkpoints/last.pt", "other model", "does not fit"),
        ("config.yaml", "short", "config.yaml"),
        ("config.yaml", "target", "_target_"),
        ("config.yaml", "interpolation", "seed=${oc.env:SECRET}"),
        ("config.yaml", "python tag", "config.yaml"),
        ("fitted.json", "short", "fitted.json"),
        ("fitted.json", "list", "fitted.json"),
        ("manifest.json", "short", "manifest.json"),
        ("config.yaml", "gone", "config.yaml"),
    ],
)
def test_a_stranger_s_folder_is_refused_in_a_line_and_nothing_runs(
    stockenh: Stockenh, copy: Path, tmp_path: Path, file: str, damage: str, says: str
) -> None:
    unfinish(copy)
    mark, path = tmp_path / "ran", copy / file
    content = path.read_bytes()
    if damage == "short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "hostile":
        path.write_bytes(pickle.dumps({"version": 1, "state": Hostile(mark)}))
    elif damage == "other model":
        state = checkpoint.load(path)
        state["learner"]["model"] = {"w": torch.zeros(1)}
        torch.save(state, path)
    elif damage == "target":
        path.write_bytes(content.replace(b"stockenh.training.losses.huber_bce.HuberBCE", b"os.system"))
    elif damage == "interpolation":
        path.write_bytes(content.replace(b"seed: 42", b"seed: ${oc.env:SECRET}"))
    elif damage == "python tag":
        path.write_text(f"seed: !!python/object/apply:os.system ['touch {mark}']\n")
    elif damage == "list":
        path.write_text("[1, 2]")
    else:
        path.unlink()
    done = stockenh("train", f"resume={copy}")
    assert done.code == 2, done.err
    assert says in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not mark.exists()


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(
    stockenh: Stockenh, whole: Path, bars: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    )
    done = train(*RUN, f"data.path={bars}", f"hydra.run.dir={run}", first=limited)
    assert done.returncode == 1
    assert "can't be written" in done.stderr and "Traceback" not in done.stderr
    assert not list((run / "checkpoints").glob(".*"))
    again = stockenh("train", f"resume={run}")  # there is room again
    assert again.code == 0, again.err
    assert same(final_weights(run), final_weights(whole))


def test_an_exploding_run_stops_with_advice_and_keeps_its_checkpoint(
    stockenh: Stockenh, bars: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = stockenh(
        "train", *RUN, f"data.path={bars}", f"hydra.run.dir={run}", "optimizer.lr=1e30", "schedule=constant"
    )
    assert done.code == 1
    assert "epoch" in done.err and "step" in done.err and "windows end" in done.err
    assert "optimizer.lr" in done.err and len(done.err.strip().splitlines()) <= 2
