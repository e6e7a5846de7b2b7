"""`split=all`: everything trains, nothing stops early, the last weights are kept."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint


@pytest.fixture
def everything(small_run: list[str]) -> list[str]:
    """A small run that holds nothing out."""
    return [*(w for w in small_run if not w.startswith("split.")), "split=all", "train.epochs=3"]


def last_model(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run / "checkpoints" / "last.pt")["learner"]["model"])


def test_all_labelled_windows_train_and_only_they_are_scored(stockenh, everything, small_run, tmp_path):
    run, cut = tmp_path / "run", tmp_path / "cut"
    answer = stockenh("train", *everything, f"hydra.run.dir={run}")
    assert answer.code == 0, answer.err
    assert "nothing is held out: no early stop, and the last epoch's weights are kept" in answer.out
    assert "raw weights of epoch 3 of 3, the last: nothing was held out" in " ".join(answer.out.split())
    assert "purged" not in answer.out
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["parts"]) == {"train"} and summary["val_loss"] is None
    assert (summary["weights"], summary["best_epoch"], summary["stopped_early"]) == ("raw", 3, False)
    # 2 symbols of 160 bars: lookback 20 leaves 141 windows each, of which the last 3 have no label
    assert summary["parts"]["train"]["h3"]["n"] == summary["windows"] == 2 * (141 - 3)
    assert {p.name for p in (run / "report").iterdir()} == {"curves.png"}
    assert stockenh("train", *small_run, f"hydra.run.dir={cut}").code == 0
    fitted = [json.loads((r / "fitted.json").read_text())["return_std"] for r in (run, cut)]
    assert fitted[0] != fitted[1]


def test_the_last_weights_are_kept_and_patience_never_stops_it(stockenh, everything, tmp_path):
    run = tmp_path / "run"
    rising = ("train.patience=1", "optimizer.lr=0.3", "schedule=constant")
    answer = stockenh("train", *everything, *rising, "train.epochs=5", f"hydra.run.dir={run}")
    assert answer.code == 0, answer.err
    lines = RunFolder(run).read_metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(line["val_loss"] is None and line["val"] == {} for line in lines)
    saved = load_file(run / "weights" / "raw.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in last_model(run).items())


@pytest.mark.parametrize(("averaging", "chosen"), [("none", "raw"), ("ema", "ema"), ("ema_swa", "swa")])
def test_without_validation_an_average_is_taken_where_there_is_one(
    stockenh, everything, tmp_path, averaging, chosen
):
    run = tmp_path / "run"
    answer = stockenh("train", *everything, f"averaging={averaging}", f"hydra.run.dir={run}")
    assert answer.code == 0, answer.err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["weights"] == chosen
    assert {told["epoch"] for told in summary["by_weights"].values()} == {3}


def test_it_is_taken_up_and_told_again(stockenh, everything, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    constant = ("averaging=ema", "schedule=constant")
    assert stockenh("train", *everything, *constant, f"hydra.run.dir={whole}").code == 0
    assert stockenh("train", *everything, *constant, "train.epochs=1", f"hydra.run.dir={run}").code == 0
    answer = stockenh("train", f"resume={run}", "train.epochs=3")
    assert answer.code == 0, answer.err
    for name in ("raw", "ema"):
        one, other = (load_file(r / "weights" / f"{name}.safetensors") for r in (run, whole))
        assert all(torch.equal(one[k], other[k]) for k in one)
    answer = stockenh("train", f"resume={run}")
    assert answer.code == 0 and "is finished (all epochs done)" in answer.out


def test_a_share_that_it_does_not_have_is_refused(stockenh, everything):
    answer = stockenh("train", *everything, "split.val=0.2")
    assert answer.code == 2 and "split.val" in answer.err
    assert len(answer.err.splitlines()) <= 2


def test_it_forecasts_uncalibrated_and_knows_no_cutoff(stockenh, everything, tmp_path):
    run, into = tmp_path / "run", tmp_path / "into"
    assert stockenh("train", *everything, f"hydra.run.dir={run}").code == 0
    answer = stockenh("tta-predict", f"run={run}", f"hydra.run.dir={into}")
    assert answer.code == 0, answer.err
    assert "not calibrated: the run held nothing out" in " ".join(answer.out.split())
    assert "confident is unknown: the run held nothing out" in " ".join(answer.out.split())
    found = pl.read_parquet(into / "forecast.parquet")
    assert found["confident"].is_null().all() and found["uncertainty"].is_not_null().all()
