"""Averages end to end: named in every epoch, saved by name, and kept through a kill within SWA's phase."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from conftest import SMALL, same
from processes import Hold
from safetensors.torch import load_file

from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint

NAMES = {"raw", "ema", "swa"}
FIRST = 4  # epoch from 1 that SWA averages, of 6
RUN = (*SMALL, "averaging=ema_swa", "averaging.swa_start=0.5", "train.epochs=6", "train.batch_size=16",
       "train.checkpoint_minutes=1e-9")  # fmt: skip


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return processes.run("train", *arguments)


def state(run: Path) -> dict[str, Any]:
    """Where the last checkpoint is."""
    return dict(checkpoint.load(run / "checkpoints" / "last.pt")["state"])


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what it took."""
    return [
        {key: value for key, value in line.items() if "second" not in key}
        for line in RunFolder(run).read_metrics()
    ]


@pytest.fixture(scope="module")
def whole(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("averages") / "run"
    done = train(*RUN, f"data.path={bars}", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


def test_every_epoch_names_the_weights_that_there_are(whole: Path) -> None:
    for line in lines(whole):
        names = NAMES if line["epoch"] >= FIRST else NAMES - {"swa"}
        assert set(line["by_weights"]) == names
        for figures in line["by_weights"].values():
            assert {"loss", "h3", "h5", "h10"} == set(figures) and figures["h3"]["n"] > 0
        # of equals the first: after its first epoch the average is the raw weights themselves
        chosen = min(line["by_weights"], key=lambda name: line["by_weights"][name]["loss"])
        assert line["weights"] == chosen and line["val_loss"] == line["by_weights"][chosen]["loss"]
        assert line["val"]["h3"] == line["by_weights"][chosen]["h3"]


def test_the_best_on_validation_is_chosen_and_all_are_saved(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    best = {
        name: min(line["by_weights"][name]["loss"] for line in lines(whole) if name in line["by_weights"])
        for name in ("raw", "ema", "swa")
    }
    assert {name: told["val_loss"] for name, told in summary["by_weights"].items()} == best
    assert summary["weights"] == min(best, key=best.__getitem__)
    assert summary["val_loss"] == best[summary["weights"]]
    saved = {path.stem: load_file(path) for path in (whole / "weights").iterdir()}
    assert set(saved) == NAMES
    assert not same(saved["raw"], saved["ema"]) and not same(saved["raw"], saved["swa"])


def test_the_table_says_which_weights_were_chosen_and_how_the_others_did(whole: Path) -> None:
    done = train(f"resume={whole}")
    summary = json.loads((whole / "summary.json").read_text())
    told = " ".join(done.stdout.split())
    assert f"{summary['weights']} weights of epoch {summary['best_epoch']} of 6, the best on" in told
    for name in NAMES - {summary["weights"]}:
        assert f"{name} {summary['by_weights'][name]['val_loss']:.4f}" in told


def test_swa_averaged_the_ends_of_its_epochs(whole: Path) -> None:
    average = checkpoint.load(whole / "checkpoints" / "last.pt")["learner"]["averages"]["swa"]
    assert int(average["n_averaged"]) == 6 - FIRST + 1


@pytest.mark.slow
def test_killed_in_the_swa_phase_it_goes_on_to_the_same_bits(whole: Path, bars: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [*RUN, f"data.path={bars}", f"hydra.run.dir={run}"]
    # within the first epoch that SWA averages, within the next, and after that one
    for number, (epoch, within) in enumerate([(FIRST - 1, True), (FIRST, True), (FIRST + 1, False)]):
        moment = Hold(tmp_path / f"hold{number}", "last.pt", epochs=epoch, write=3 if within else 2)
        given = arguments if number == 0 else [f"resume={run}"]
        process = processes.start("train", *given, hold=moment)
        moment.wait_for(process)
        process.kill()
        assert state(run)["epoch"] == epoch and (state(run)["step_in_epoch"] > 0) == within
    done = train(f"resume={run}")
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        file = f"weights/{name}.safetensors"
        assert same(load_file(run / file), load_file(whole / file)), name
    ends = [checkpoint.load(r / "checkpoints" / "last.pt")["learner"] for r in (run, whole)]
    assert same(ends[0]["model"], ends[1]["model"])
    for name in ("ema", "swa"):
        of_both = [{k: v for k, v in end["averages"][name].items() if k != "first"} for end in ends]
        assert all(isinstance(v, torch.Tensor) for v in of_both[0].values())
        assert same(*of_both), name
    assert lines(run) == lines(whole)
