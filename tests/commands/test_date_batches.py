"""Runs whose batches hold whole days, with a loss over the order of a day."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from bars import write_bars
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TINY = ["device=cpu", "model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Five symbols with 100 bars each."""
    folder = tmp_path_factory.mktemp("panel")
    for number in range(5):
        write_bars(folder / f"S{number}.csv", seed=number, bars=100)
    return ["data=files", f"data.path={folder}", "data.lookback=20", "embedding=none", "split.val=0.25",
            "split.test=0.25", "train.batch=date", "train.batch_size=12", *TINY]  # fmt: skip


@pytest.mark.parametrize(("loss", "target"), [("rank_ic", "absolute"), ("listwise", "market_relative")])
def test_a_resumed_run_has_the_same_bits_and_epochs_as_many_steps(loss, target, recipe, stockenh, tmp_path):
    options = [f"loss={loss}", f"target={target}", "schedule=constant", "averaging=ema", "train.accumulate=2"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    stockenh("train", *recipe, *options, "train.epochs=3", f"hydra.run.dir={whole}", code=0)
    stockenh("train", *recipe, *options, "train.epochs=1", f"hydra.run.dir={run}", code=0)
    stockenh("train", f"resume={run}", "train.epochs=3", code=0)
    for name in ("raw", "ema"):
        one, other = (load_file(f / f"weights/{name}.safetensors") for f in (run, whole))
        assert all((one[key] == other[key]).all() for key in one)
    lines = [json.loads(text) for text in (whole / "metrics.jsonl").read_text().splitlines()]
    assert len(set(np.diff([0, *(line["steps"] for line in lines)]))) == 1
    # the loss that chooses stays the plain one; the rank IC of each horizon stands beside
    assert all(-1 <= line["val"][h]["rank_ic"] <= 1 for line in lines for h in ("h3", "h5", "h10"))
    parts = json.loads((run / "summary.json").read_text())["parts"]
    assert {scores["mae"] for part in parts.values() for scores in part.values()} == {None}
    stockenh("evaluate", f"run={run}", f"hydra.run.dir={tmp_path}/judged", code=0)
    judged = json.loads((tmp_path / "judged/evaluation.json").read_text())["horizons"]["h5"]["forecasts"]
    assert judged["model"]["mae"] is None is judged["model"]["r2"] and judged["model"]["rank_ic"] is not None
    stockenh("tta-predict", f"run={run}", f"hydra.run.dir={tmp_path}/forecast", code=0)
    forecast = pl.read_parquet(tmp_path / "forecast/forecast.parquet")
    assert forecast["ret"].null_count() == len(forecast) and set(forecast["rank"]) == set(range(1, 6))


def test_validation_has_no_rank_ic_where_a_day_has_too_few_symbols(small_run, stockenh, tmp_path):
    stockenh("train", *small_run, "train.batch=date", f"hydra.run.dir={tmp_path}/run", code=0)
    (line,) = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert line["val"]["h3"]["rank_ic"] is None


def test_a_search_may_be_judged_by_it(recipe, stockenh, tmp_path):
    options = ["optimizer.lr=interval(1e-4,1e-3)", "sweep=base", "train.epochs=1", "sweep.n_trials=2"]
    folder = tmp_path / "sweep"
    stockenh("sweep", *recipe, *options, "loss=rank_ic", "sweep.metric=val.h5.rank_ic",
             f"hydra.sweep.dir={folder}", code=0)  # fmt: skip
    assert "val.h5.rank_ic" in (folder / "report.md").read_text()


def test_random_batches_are_refused_before_anything_is_read(recipe, refused, tmp_path):
    error = refused("train", *recipe, "train.batch=random", "loss=listwise", f"hydra.run.dir={tmp_path}/no")
    assert "loss=listwise" in error and "train.batch=random" in error
    assert "train.batch" in refused("train", *recipe, "train.batch=week", f"hydra.run.dir={tmp_path}/no")


@pytest.mark.deep
@pytest.mark.parametrize("option", ["data.stride=3", "train.uniqueness=true"])
def test_thinned_and_weighted_runs_resume_to_the_same_bits(option, recipe, stockenh, tmp_path):
    rest, whole, run = [a for a in recipe if "batch" not in a], tmp_path / "whole", tmp_path / "run"
    options = [option, "target=rank", "schedule=constant", "averaging=ema", "train.resident=false"]
    stockenh("train", *rest, *options, "train.epochs=2", f"hydra.run.dir={whole}", code=0)
    stockenh("train", *rest, *options, "train.epochs=1", f"hydra.run.dir={run}", code=0)
    stockenh("train", f"resume={run}", "train.epochs=2", code=0)
    stockenh("train", *rest, *options[1:], "train.epochs=2", f"hydra.run.dir={tmp_path}/plain", code=0)
    for name in ("raw", "ema"):
        one, other, plain = (load_file(f / f"weights/{name}.safetensors") for f in
                             (run, whole, tmp_path / "plain"))  # fmt: skip
        assert all((one[key] == other[key]).all() for key in one)
        assert any((one[key] != plain[key]).any() for key in one)
    parts, others = (json.loads((f / "summary.json").read_text())["parts"] for f in (run, tmp_path / "plain"))
    assert [parts[p]["h3"]["n"] == others[p]["h3"]["n"] for p in ("train", "val", "test")] == [
        option != "data.stride=3", True, True
    ]  # fmt: skip
    stockenh("evaluate", f"run={run}", "evaluate.resamples=100", "evaluate.block=10", code=0)
    found = json.loads((run / "report/evaluation.json").read_text())
    assert found["horizons"]["h3"]["n"] == parts["test"]["h3"]["n"]
