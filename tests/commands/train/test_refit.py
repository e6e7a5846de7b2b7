"""`split=all`: everything trains, nothing stops early, the last weights are kept."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint

RUN = Path("run")


@pytest.fixture
def everything(small_run, stockenh, here):
    """Trains a small run that holds nothing out."""
    kept = [w for w in small_run if not w.startswith("split.")]
    recipe = [*kept, "split=all", "train.epochs=3", "hydra.run.dir=run"]
    return lambda *more, code=0: stockenh("train", *recipe, *more, code=code)


def summary() -> dict:
    return json.loads((RUN / "summary.json").read_text())


def test_all_labelled_windows_train_and_a_forecast_is_uncalibrated(everything, small_run, stockenh):
    answer = everything()
    assert "nothing is held out: no early stop, and the last epoch's weights are kept" in answer.out
    assert "raw weights of epoch 3 of 3, the last: nothing was held out" in " ".join(answer.out.split())
    assert "purged" not in answer.out
    found = summary()
    assert set(found["parts"]) == {"train"} and found["val_loss"] is None
    assert (found["weights"], found["best_epoch"], found["stopped_early"]) == ("raw", 3, False)
    # 2 symbols of 160 bars: lookback 20 leaves 141 windows each, of which the last 3 have no label
    assert found["parts"]["train"]["h3"]["n"] == found["windows"] == 2 * (141 - 3)
    assert {p.name for p in (RUN / "report").iterdir()} == {"curves.png", "details.json"}
    stockenh("train", *small_run, "hydra.run.dir=cut", code=0)
    all_rows, cut = (json.loads((run / "fitted.json").read_text()) for run in (RUN, Path("cut")))
    assert all_rows["return_std"] != cut["return_std"]
    out = " ".join(stockenh("tta-predict", "run=run", "hydra.run.dir=forecast", code=0).out.split())
    assert "not calibrated: the run held nothing out" in out
    assert "confident is unknown: the run held nothing out" in out
    forecast = pl.read_parquet("forecast/forecast.parquet")
    assert forecast["confident"].is_null().all() and forecast["uncertainty"].is_not_null().all()


def test_the_last_weights_are_kept_and_patience_never_stops_it(everything):
    everything("train.patience=1", "optimizer.lr=0.3", "schedule=constant", "train.epochs=5")
    lines = RunFolder(RUN).read_metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(line["val_loss"] is None and line["val"] == {} for line in lines)
    saved = load_file(RUN / "weights" / "raw.safetensors")
    last = checkpoint.load(RUN / "checkpoints" / "last.pt")["learner"]["model"]
    assert all(torch.equal(saved[k], v) for k, v in last.items())


@pytest.mark.parametrize(("averaging", "chosen"), [("none", "raw"), ("ema", "ema"), ("ema_swa", "swa")])
def test_without_validation_an_average_is_taken_where_there_is_one(everything, averaging, chosen):
    everything(f"averaging={averaging}")
    assert summary()["weights"] == chosen
    assert {scores["epoch"] for scores in summary()["by_weights"].values()} == {3}


def test_it_is_resumed_to_the_same_bits(everything, stockenh):
    constant = ("averaging=ema", "schedule=constant")
    everything(*constant)
    whole = RUN.rename("whole")
    everything(*constant, "train.epochs=1")
    stockenh("train", "resume=run", "train.epochs=3", code=0)
    for name in ("raw", "ema"):
        one, other = (load_file(r / "weights" / f"{name}.safetensors") for r in (RUN, whole))
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert "is finished (all epochs done)" in stockenh("train", "resume=run", code=0).out


def test_a_share_that_it_does_not_have_is_refused(everything):
    err = everything("split.val=0.2", code=2).err
    assert "split.val" in err and len(err.splitlines()) <= 2
