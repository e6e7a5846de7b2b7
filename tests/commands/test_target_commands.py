"""Runs with other targets than the return itself, through all commands that take a run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import processes
import pytest
import torch
import yaml
from bars import write_bars, write_ready_windows
from safetensors.torch import load_file
from scipy.stats import spearmanr

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import config_of, parse, plain
from stockenh.data.batches import DeviceWindows
from stockenh.data.targets import Absolute, MarketRelative, Rank, VolatilityScaled
from stockenh.inference.predict import predict
from stockenh.storage.run_folder import RunFolder

pytestmark = pytest.mark.slow

TARGETS = ("market_relative", "rank", "volatility_scaled")
CPU = torch.device("cpu")
TINY = ["device=cpu", "model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8"]


def on_one_line(text):
    """Without the line breaks of a narrow terminal."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Six symbols with 120 bars each."""
    folder = tmp_path_factory.mktemp("panel")
    for number in range(6):
        write_bars(folder / f"S{number}.csv", seed=number, bars=120)
    return folder


@pytest.fixture(scope="module")
def recipe(panel):
    return [
        "data=files", f"data.path={panel}", "data.lookback=20", "embedding=none", "split.val=0.25",
        "split.test=0.25", "train.epochs=1", *TINY,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """A finished run of each target, by name; of market_relative with EMA and two epochs."""
    folder = tmp_path_factory.mktemp("targets")
    for name in ("absolute", *TARGETS):
        more = ["train.epochs=2", "averaging=ema"] if name == "market_relative" else []
        more += ["target.bars=5"] if name == "volatility_scaled" else []
        done = processes.run("train", *recipe, f"target={name}", *more, f"hydra.run.dir={folder / name}")
        assert done.returncode == 0, done.stderr
        assert (f"target {name}" in on_one_line(done.stdout)) == (name != "absolute")
    return {name: folder / name for name in ("absolute", *TARGETS)}


@pytest.mark.deep
def test_off_is_the_run_without_the_key(runs, recipe, stockenh, tmp_path):
    stockenh("train", *recipe, f"hydra.run.dir={tmp_path}/plain", code=0)
    own, plain_run = (load_file(folder / "weights/raw.safetensors") for folder in
                      (runs["absolute"], tmp_path / "plain"))  # fmt: skip
    assert all((own[name] == plain_run[name]).all() for name in own)
    other = load_file(runs["rank"] / "weights/raw.safetensors")
    assert any((own[name] != other[name]).any() for name in own)


def test_a_run_without_the_key_is_of_the_absolute_target(runs, tmp_path):
    folder = shutil.copytree(runs["absolute"], tmp_path / "old")
    content = yaml.safe_load((folder / "config.yaml").read_text())
    del content["target"]
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    assert config_of(RunFolder(folder)).target == Absolute()


def test_a_run_keeps_its_target_and_resumes_with_it(runs, recipe, stockenh, tmp_path):
    settings = {"market_relative": MarketRelative(), "rank": Rank(), "volatility_scaled": VolatilityScaled(5)}
    for name, target in settings.items():
        assert config_of(RunFolder(runs[name])).target == target
        assert json.loads((runs[name] / "summary.json").read_text())["target"] == name
    run = tmp_path / "run"
    first = ["target=market_relative", "averaging=ema", "train.epochs=1", "schedule=constant"]
    whole = [*first[:-2], "train.epochs=2", "schedule=constant"]
    stockenh("train", *recipe, *whole, f"hydra.run.dir={tmp_path}/whole", code=0)
    stockenh("train", *recipe, *first, f"hydra.run.dir={run}", code=0)
    stockenh("train", f"resume={run}", "train.epochs=2", code=0)
    for name in ("raw", "ema"):
        one, other = (load_file(f / f"weights/{name}.safetensors") for f in (run, tmp_path / "whole"))
        assert all((one[key] == other[key]).all() for key in one)


@pytest.mark.parametrize("name", TARGETS)
def test_a_forecast_has_score_and_rank_of_the_day(name, runs, stockenh, tmp_path):
    days = ["tta.from=2020-06-01", "tta.to=2020-06-05", "tta.views=1"]
    answer = stockenh("tta-predict", f"run={runs[name]}", *days, f"hydra.run.dir={tmp_path}/f", code=0)
    assert f"target {name}" in on_one_line(answer.out)
    found = pl.read_parquet(tmp_path / "f/forecast.parquet")
    assert found["score"].is_finite().all()
    assert found["ret"].null_count() == (0 if name == "market_relative" else len(found))
    for _, rows in found.group_by("date", "horizon"):
        ordered = rows.sort("score", descending=True)
        assert ordered["rank"].to_list() == [1, 2, 3, 4, 5, 6]
    header = (tmp_path / "f/forecast.csv").read_text().splitlines()[0]
    assert header == "symbol,date,horizon,ret,up_prob,uncertainty,confident,score,rank"


def test_a_forecast_of_the_absolute_target_has_its_return_as_score(runs, stockenh, tmp_path):
    stockenh("tta-predict", f"run={runs['absolute']}", f"hydra.run.dir={tmp_path}/f", code=0)
    found = pl.read_parquet(tmp_path / "f/forecast.parquet")
    assert found["score"].equals(found["ret"]) and set(found["rank"]) == set(range(1, 7))


@pytest.mark.parametrize("name", TARGETS)
def test_the_report_says_which_target_and_takes_ic_of_simple_returns(name, runs, stockenh, tmp_path):
    options = ["evaluate.resamples=100", "evaluate.block=10", "tta.views=0"]
    answer = stockenh("evaluate", f"run={runs[name]}", *options, f"hydra.run.dir={tmp_path}/e", code=0)
    assert f"test part, target {name}" in on_one_line(answer.out)
    assert f"target {name}" in (tmp_path / "e/evaluation.md").read_text()
    found = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert found["target"] == name
    trained = RunFolder(runs[name])
    prepared = build.data(config_of(trained), CPU)
    rows = prepared.rows["test"]
    direction = prepared.windows.direction[rows]
    summary = json.loads((runs[name] / "summary.json").read_text())["parts"]["test"]
    for column, horizon in enumerate(("h3", "h5", "h10")):
        labelled = direction[np.isfinite(direction[:, column]), column]
        assert found["horizons"][horizon]["n"] == len(labelled) == summary[horizon]["n"]
        up = (labelled[labelled != 0] > 0).mean()
        assert found["horizons"][horizon]["majority"] == pytest.approx(max(up, 1 - up))
        assert found["horizons"][horizon]["forecasts"]["model"]["log_loss"] == pytest.approx(
            summary[horizon]["log_loss"]
        )
    net = build.trained_model(config_of(trained), prepared, trained, found["runs"][0]["weights"], CPU)
    fitted = build.fitted_of(trained, prepared)
    ready = DeviceWindows(prepared.windows, prepared.embedding, fitted, CPU)
    ret = predict(net, ready, rows, fitted).ret[:, 0]
    asof, raw = prepared.windows.asof[rows], prepared.windows.returns[rows, 0]
    each = [spearmanr(ret[asof == day], raw[asof == day])[0] for day in np.unique(asof)]
    assert found["horizons"]["h3"]["forecasts"]["model"]["rank_ic"]["mean"] == pytest.approx(np.mean(each))


def test_other_bars_are_judged_by_the_same_target(runs, panel, stockenh, tmp_path):
    later = tmp_path / "later"
    later.mkdir()
    for number in range(6):
        write_bars(later / f"S{number}.csv", seed=50 + number, bars=150)
    options = ["evaluate.resamples=100", "evaluate.from=2020-06-15", "evaluate.block=10", "tta.views=0"]
    folder = tmp_path / "e"
    stockenh("evaluate", f"run={runs['rank']}", "data=files", f"data.path={later}", *options,
             f"hydra.run.dir={folder}", code=0)  # fmt: skip
    found = json.loads((folder / "evaluation.json").read_text())
    assert "target rank" in found["part"]
    assert 0.45 < found["horizons"]["h3"]["majority"] < 0.55  # half of a day lies above its median


@pytest.mark.parametrize(("name", "command"), [
    ("market_relative", ["explain", "explain.windows=8", "explain.outputs=[up]"]),
    ("rank", ["export"]),
    ("volatility_scaled", ["audit", "audit.windows=64", "audit.shuffles=2", "audit.dates=1"]),
], ids=str)  # fmt: skip
@pytest.mark.deep
def test_commands_on_a_run_take_it(name, command, runs, stockenh, tmp_path):
    stockenh(command[0], f"run={runs[name]}", *command[1:], f"hydra.run.dir={tmp_path}/out", code=0)
    files = [path.read_text() for path in (tmp_path / "out").glob("*.json")]
    assert any(json.loads(text).get("target") == name for text in files)


def test_the_audit_finds_the_statistics_of_the_train_part(runs, stockenh, tmp_path):
    options = ["audit.windows=64", "audit.shuffles=2", "audit.dates=2"]
    stockenh("audit", f"run={runs['rank']}", *options, f"hydra.run.dir={tmp_path}/a", code=0)
    checks = {c["name"]: c["finding"] for c in json.loads((tmp_path / "a/audit.json").read_text())["checks"]}
    assert (checks["standardisers"], checks["later bars"], checks["calibration"]) == ("pass",) * 3


def test_a_student_has_the_target_of_its_teacher(runs, stockenh, refused, tmp_path):
    folder = tmp_path / "student"
    stockenh("distill", f"teacher={runs['rank']}", "model=timeformer", *TINY, "train.epochs=1",
             f"hydra.run.dir={folder}", code=0)  # fmt: skip
    assert config_of(RunFolder(folder)).target == Rank()
    assert json.loads((folder / "distillation.json").read_text())["target"] == "rank"
    for other in (["target=absolute"], ["target=rank", "target.min_symbols=4"], ["target=market_relative"]):
        error = refused("distill", f"teacher={runs['rank']}", *other, f"hydra.run.dir={tmp_path}/no")
        assert " ".join(other) in error and "target=rank target.min_symbols=5" in error
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "target=rank", "target.min_symbols=7"], ["target.min_symbols=7", "6 symbols"]),
        (["train", "target=rank", "target.min_symbols=1"], ["target.min_symbols=1", "at least 2"]),
        (["train", "target=volatility_scaled"], ["target.bars=20", "data.lookback=20"]),
        (["train", "target=ranks"], ["rank"]),
        (["sweep", "target=rank,absolute"], ["sweep.params.target", "other labels"]),
        (["sweep", "target=rank", "target.min_symbols=5,6"], ["sweep.params.target.min_symbols"]),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_with_a_line(arguments, words, recipe, refused, tmp_path):
    where = "hydra.sweep.dir" if arguments[0] == "sweep" else "hydra.run.dir"
    error = refused(arguments[0], *recipe, *arguments[1:], f"{where}={tmp_path}/no")
    assert all(word in error for word in words)


def test_a_finished_run_can_not_be_given_another_target(runs, refused, tmp_path):
    assert "target" in refused("evaluate", f"run={runs['rank']}", "target=absolute")
    assert "target" in refused("train", f"resume={runs['rank']}", "target=absolute")


def test_ready_windows_take_a_relative_target_and_no_volatility(stockenh, refused, tmp_path):
    write_ready_windows(tmp_path / "w.parquet")
    data = ["data=windows", f"data.path={tmp_path}/w.parquet", *TINY, "train.epochs=1"]
    stockenh("train", *data, "target=rank", "target.min_symbols=2", f"hydra.run.dir={tmp_path}/run", code=0)
    stockenh("evaluate", f"run={tmp_path}/run", "evaluate.resamples=100", code=0)
    error = refused("train", *data, "target=volatility_scaled", f"hydra.run.dir={tmp_path}/no")
    assert "target=volatility_scaled" in error and "data=windows" in error


def test_a_generated_market_has_its_limit_for_the_absolute_target_only(recipe, stockenh, tmp_path):
    options = [a for a in recipe if not a.startswith(("data=", "data.path"))]
    market = ["data=synthetic", "data.symbols=6", "data.bars=150"]
    for name in ("absolute", "rank"):
        stockenh("train", *market, *options, f"target={name}", f"hydra.run.dir={tmp_path}/{name}", code=0)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert ("limit_accuracy" in summary["parts"]["test"]["h3"]) == (name == "absolute")


def test_a_checked_config_has_the_default():
    assert parse(plain(compose([]))).target == Absolute()


def test_a_panel_s_forecast_is_a_ranking_with_the_run_s_own_skill(runs, stockenh, tmp_path):
    out = stockenh("tta-predict", f"run={runs['rank']}", f"hydra.run.dir={tmp_path}/out", code=0).out
    table = [line.split() for line in out.splitlines() if line.startswith(" ") and "10" in line.split()]
    assert [row[4] for row in table] == [str(rank) for rank in range(1, 1 + len(table))] and len(table) >= 5
    scores = json.loads((runs["rank"] / "summary.json").read_text())["parts"]["test"]["h10"]
    assert f"10 bars: rank IC {scores['rank_ic']:.3f} (95% " in out
