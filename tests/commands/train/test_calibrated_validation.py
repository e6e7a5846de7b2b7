"""Where a loss shifts probabilities, the validation loss that decides is that of calibrated ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bars import write_bars
from torch import nn

from stockenh.commands.train.session import Session
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.storage.run_folder import RunFolder
from stockenh.training.losses.huber_bce import HuberBCE
from stockenh.training.step import Objective

CPU = torch.device("cpu")
PLAIN = Objective(HuberBCE(returns="huber"))
SHIFTING = [
    "loss=focal", "loss.alpha=0.05", "averaging=ema", "train.epochs=2", "train.batch_size=16",
    "optimizer.lr=3e-2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the run of this file lies, which is trained once."""
    return tmp_path_factory.mktemp("shifted")


@pytest.fixture
def run(stockenh, folder, small_run, here):
    run = folder / "run"
    if not run.exists():
        stockenh("train", *small_run, *SHIFTING, f"hydra.run.dir={run}", code=0)
    return run


def lines_of(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def summary_of(run):
    return json.loads((Path(run) / "summary.json").read_text())


class Shifted(nn.Module):
    """A network whose logits of direction are moved by a constant."""

    def __init__(self, net, shift):
        super().__init__()
        self.net, self.shift = net, shift

    def forward(self, *inputs):
        out = self.net(*inputs)
        logits = out["up_logits"] + self.shift
        return {**out, "up_logits": logits, "up_prob": torch.sigmoid(logits)}


def test_a_shift_of_all_logits_changes_the_loss_that_decides_by_little(run, here):
    """On a validation part of 240 dates: the fewer, the more calibration is shrunk."""
    for number in range(4):
        write_bars(here / f"S{number}.csv", seed=number, bars=1000)
    trained = Trained.open(RunFolder(run), "raw")
    prepared = build.data(replace(trained.run, data=replace(trained.run.data, path=str(here))), CPU)
    net = trained.net(prepared, CPU)
    ready, fitted = trained.ready(prepared, CPU)
    session = Session(trained.run, trained.folder, prepared, fitted, ready, CPU, "fp32")
    found = {shift: session.validation(Shifted(net, shift), PLAIN, calibrated=True) for shift in (-1, 0, 2)}
    spread = {
        name: max(of[name] for of in found.values()) - min(of[name] for of in found.values())
        for name in ("loss", "loss_uncalibrated")
    }
    assert spread["loss"] < 0.05 * spread["loss_uncalibrated"] and spread["loss_uncalibrated"] > 0.1
    for shift, figures in found.items():
        plain = session.validation(Shifted(net, shift), PLAIN)
        assert plain["loss"] == figures["loss_uncalibrated"] and plain["h5"] == figures["h5"]


def test_both_losses_are_recorded_and_the_calibrated_one_decides(run):
    lines, found = lines_of(run), summary_of(run)
    for line in lines:
        for figures in line["by_weights"].values():
            assert list(figures) == ["loss", "loss_uncalibrated", "h3", "h5", "h10"]
            assert figures["loss"] < figures["loss_uncalibrated"]
        chosen = min(line["by_weights"], key=lambda name: line["by_weights"][name]["loss"])
        kept = line["by_weights"][chosen]
        assert line["weights"] == chosen and line["val"] == {k: kept[k] for k in ("h3", "h5", "h10")}
        assert (line["val_loss"], line["val_loss_uncalibrated"]) == (kept["loss"], kept["loss_uncalibrated"])
    best = min(lines, key=lambda line: line["val_loss"])
    assert (found["best_epoch"], found["val_loss"]) == (best["epoch"], best["val_loss"])


def test_other_losses_are_chosen_by_as_they_are(stockenh, small_run, here):
    stockenh("train", *small_run, "loss=focal", "hydra.run.dir=run", code=0)
    (line,) = lines_of("run")
    assert list(line["by_weights"]["raw"]) == ["loss", "h3", "h5", "h10"]
    assert "val_loss_uncalibrated" not in line


def test_a_run_without_validation_has_neither(stockenh, small_run, here):
    kept = [word for word in small_run if not word.startswith("split.")]
    stockenh("train", *kept, *SHIFTING, "split=all", "hydra.run.dir=run", code=0)
    assert [line["val_loss"] for line in lines_of("run")] == [None, None]
    assert "val_loss_uncalibrated" not in lines_of("run")[0]


def test_a_resumed_run_goes_on_with_the_loss_that_it_began_with(run, stockenh, here):
    mine, older = shutil.copytree(run, here / "mine"), shutil.copytree(run, here / "older")
    # as a version that did not calibrate would have left it: its losses, and its best by them
    lines = lines_of(older)
    for line in lines:
        line["val_loss"] = line.pop("val_loss_uncalibrated")
        for figures in line["by_weights"].values():
            figures["loss"] = figures.pop("loss_uncalibrated")
    (older / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for one in (mine, older):
        stockenh("train", f"resume={one}", "train.epochs=3", code=0)
    assert (
        [line["epoch"] for line in lines_of(mine)] == [line["epoch"] for line in lines_of(older)] == [1, 2, 3]
    )
    assert lines_of(mine)[:2] == lines_of(run)
    last, of_older = lines_of(mine)[2], lines_of(older)[2]
    assert last["val_loss"] < last["val_loss_uncalibrated"] == of_older["val_loss"]
    assert "val_loss_uncalibrated" not in of_older


@pytest.mark.slow
def test_a_student_follows_its_teacher(run, stockenh, here):
    small = ["model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8", "train.epochs=1"]
    stockenh("distill", f"teacher={run}", "device=cpu", *small, "hydra.run.dir=student", code=0)
    assert "val_loss_uncalibrated" in lines_of("student")[0]
    assert "val_loss_uncalibrated" not in lines_of("student/without_teacher")[0]
