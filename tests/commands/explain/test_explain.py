"""`stockenh explain`: a planted signal is found, attributions add up, a model's own weights are shown."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from bars import write_windows

from stockenh.commands.explain import attributions as explain
from stockenh.data.batches import DeviceWindows
from stockenh.data.features import FeatureSettings, feature_family, feature_names
from stockenh.data.fitted import Fitted
from stockenh.data.windows import StoredWindows
from stockenh.models import PRICE_SERIES

NAMES = feature_names(FeatureSettings())
PLANTED = "bb_position"
BARS = 20
TINY = [
    "device=cpu", "split.val=0.2", "split.test=0.3", "train.epochs=12", "train.patience=12",
    "optimizer.lr=1e-2", "model.d_model=16", "model.heads=2",
]  # fmt: skip
TIMEFORMER = [*TINY, "model.layers=1", "model.ffn=16"]
TFT = ["model=tft_xl", *TINY, "model.lstm_layers=1", "model.fusion_layers=1", "train.epochs=2"]
FEW = ["explain.windows=24", "explain.steps=32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs of this file lie; each is trained once."""
    return tmp_path_factory.mktemp("explained")


def trained(stockenh, folder: Path, name: str, *recipe: str, planted: bool = True) -> Path:
    run, data = folder / f"{name} (1)", folder / f"windows_{planted}.parquet"
    if not run.exists():
        if not data.exists():
            write_windows(data, 600, 2, NAMES.index(PLANTED) if planted else None, BARS)
        stockenh("train", "data=windows", f"data.path={data}", *recipe, f"hydra.run.dir={run}", code=0)
    return run


@pytest.fixture
def run(stockenh, folder, here):
    return trained(stockenh, folder, "timeformer", *TIMEFORMER)


@pytest.fixture
def tft_run(stockenh, folder, here):
    return trained(stockenh, folder, "tft", *TFT)


def figures_of(folder: Path) -> dict:
    return json.loads((folder / "explain.json").read_text())


def test_a_planted_feature_comes_first_and_all_adds_up(run, stockenh, pictures):
    answer = stockenh("explain", f"run={run}", *FEW, code=0)
    folder = run / "explain"
    found = figures_of(folder)
    assert found["part"] == "test" and found["windows"] == 24
    assert found["groups"][PLANTED] == "technical" and found["groups"]["volume"] == "price and volume"
    for output in ("up", "ret"):
        assert list(found["attributions"][output]) == ["h3", "h5", "h10"]
        for of in found["attributions"][output].values():
            largest = max(of["inputs"], key=lambda name: of["inputs"][name]["size"])
            assert largest == PLANTED
            assert max(of["groups"], key=lambda name: of["groups"][name]["size"]) == "technical"
            assert 0 < of["completeness"]["mean"] <= of["completeness"]["worst"] <= 0.01
            assert all(len(by_bar) == BARS for by_bar in of["price_by_bar"].values())
    frame = pl.read_parquet(folder / "attributions.parquet")
    assert len(frame) == 24 * 3 * 2 and frame["date"].is_sorted() is False
    inputs = [*PRICE_SERIES, *NAMES, "embedding"]
    assert frame.columns[8:] == inputs
    up = frame.filter(pl.col("output") == "up")
    missed = up["value"] - up["baseline"] - up.select(pl.sum_horizontal(inputs)).to_series()
    assert missed.abs().max() < 0.01 * (up["value"] - up["baseline"]).abs().max()
    one = up.filter(pl.col("horizon") == 5)
    assert found["attributions"]["up"]["h5"]["inputs"][PLANTED]["size"] == pytest.approx(
        one[PLANTED].abs().mean()
    )
    assert pl.read_csv(folder / "attributions.csv").columns == frame.columns
    for name in ("attributions.png", "bars.png"):
        assert (folder / name).stat().st_size > 10_000
        assert str(folder / name) in answer.out.split("explain  ", 1)[1]
    assert not (folder / "weights.png").exists()
    assert "not what moves the market" in answer.out and "noise" not in answer.out


def test_the_values_are_the_forecasts_of_the_run(run, stockenh):
    only = ["explain.outputs=[ret]", "explain.horizons=[10]", "explain.windows=5", "hydra.run.dir=mine"]
    stockenh("explain", f"run={run}", *only, "explain.steps=64", code=0)
    frame = pl.read_parquet("mine/attributions.parquet")
    assert frame["horizon"].unique().to_list() == [10] and frame["output"].unique().to_list() == ["ret"]
    days = sorted(frame["date"])
    bounds = [f"tta.from={days[0]}", f"tta.to={days[-1]}", "tta.views=0", "hydra.run.dir=forecast"]
    stockenh("tta-predict", f"run={run}", *bounds, code=0)
    forecast = pl.read_parquet("forecast/forecast.parquet").filter(pl.col("horizon") == 10)
    both = frame.join(forecast, on=["symbol", "date"])
    assert len(both) == 5
    np.testing.assert_allclose(both["value"], both["ret"], atol=1e-6)
    # the first and the last window of the part are among them
    found = figures_of(Path("mine"))
    assert [str(days[0]), str(days[-1])] == [found["from"], found["to"]]


def test_where_nothing_was_learnt_noise_is_explained(stockenh, folder, here):
    run = trained(stockenh, folder, "coin", *TIMEFORMER, "train.epochs=1", planted=False)
    answer = stockenh("explain", f"run={run}", *FEW, "explain.outputs=[up]", code=0)
    assert answer.out.count("does not lie above the majority class's") == 3
    assert figures_of(run / "explain")["no_better_than_majority"] == ["h3", "h5", "h10"]


def test_the_tft_shows_its_own_weights_and_its_attention(tft_run, stockenh, pictures):
    given = (*FEW, "explain.outputs=[up]", "explain.horizons=[5]", "explain.max_steps=4096")
    answer = stockenh("explain", f"run={tft_run}", *given, code=0)
    weights = figures_of(tft_run / "explain")["weights_of_model"]
    assert list(weights["price"]) == list(PRICE_SERIES)
    assert list(weights["static"]) == [*NAMES, "embedding"]
    for kind in ("price", "static"):
        assert sum(of["mean"] for of in weights[kind].values()) == pytest.approx(1, abs=1e-5)
        assert all(of["low"] <= of["high"] for of in weights[kind].values())
    assert len(weights["attention"]["mean"]) == BARS
    assert sum(weights["attention"]["mean"]) == pytest.approx(1, abs=1e-5)
    for name in ("weights.png", "attention.png", "attributions.png"):
        assert (tft_run / "explain" / name).stat().st_size > 10_000
    assert answer.out.index("own selection") < answer.out.index("gap, worst window")


def test_without_captum_the_own_weights_stay(tft_run, run, stockenh, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    answer = stockenh("explain", f"run={tft_run}", *FEW, "hydra.run.dir=tft", code=0)
    assert "pip install 'stockenh[explain]'" in answer.out
    found = figures_of(Path("tft"))
    assert "attributions" not in found and "weights_of_model" in found
    assert {p.name for p in Path("tft").glob("*.png")} == {"weights.png", "attention.png"}
    answer = stockenh("explain", f"run={run}", *FEW, "hydra.run.dir=timeformer", code=1)
    assert "pip install 'stockenh[explain]'" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_attributions_that_do_not_add_up_are_refused(run, refused):
    few = ("explain.windows=8", "explain.steps=1", "explain.max_steps=1")
    err = refused("explain", f"run={run}", *few, code=1)
    assert "with 1 steps, more than 1%: raise explain.max_steps=1" in err
    assert not (run / "explain/explain.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.path=nowhere.parquet"], "nowhere.parquet: no such file"),
        (["data.path=fewer.parquet"], "was trained on other context features than this data has"),
        (["explain.windows=0"], "explain.windows=0 must be at least 1"),
        (["explain.steps=64", "explain.max_steps=8"], "at most explain.max_steps=8"),
        (["explain.outputs=[upp]"], "no such outputs. Nearest: up. Options: ret, up."),
        (["explain.outputs=[]"], "explain.outputs=[]: name one or more"),
        (["explain.horizons=[4]"], "explain.horizons=[4]: the run has [3, 5, 10], not 4"),
    ],
)
def test_bad_input_is_one_clear_line(run, folder, refused, arguments, message):
    frame = pl.read_parquet(folder / "windows_True.parquet")
    frame.with_columns(pl.col("context").list.head(28)).write_parquet("fewer.parquet")
    assert message in refused("explain", f"run={run}", *arguments)


def test_a_run_that_holds_nothing_out_is_explained_on_train(small_run, stockenh, here):
    kept = (w for w in small_run if not w.startswith(("split.", "embedding.")))
    stockenh("train", *kept, "split=all", "embedding=none", "hydra.run.dir=run", code=0)
    answer = stockenh("explain", "run=run", *FEW, "explain.outputs=[up]", code=0)
    found = figures_of(Path("run/explain"))
    assert found["part"] == "train" and "embedding" not in found["groups"]
    assert "24 of 276 train windows" in answer.out and "the run held nothing out" in answer.out


def test_other_bars_are_explained_by_the_runs_own_scales(finished_run, bars_folder, stockenh, here):
    moved = shutil.copytree(bars_folder, here / "other bars")
    (moved / "BBB.csv").rename(moved / "CCC.csv")
    given = ("data=files", f"data.path={moved}", "explain.outputs=[up]", "explain.horizons=[3]", *FEW)
    stockenh("explain", f"run={finished_run}", *given, "hydra.run.dir=out", code=0)
    symbols = pl.read_parquet("out/attributions.parquet")["symbol"].unique().sort().to_list()
    assert symbols == ["AAA", "CCC"]


def test_an_even_sample_has_both_ends_and_every_row_once():
    rows = np.arange(100, 200)
    assert explain.evenly(rows, 5).tolist() == [100, 125, 150, 174, 199]
    assert explain.evenly(rows, 1000) is rows
    assert len(set(explain.evenly(rows, 99).tolist())) == 99


def test_the_baseline_is_the_train_mean_of_everything():
    windows = StoredWindows(
        symbols=("A",), symbol=np.zeros(4, np.int32), horizons=(3,), lookback=2,
        asof=np.arange("2024-01-01", "2024-01-05", dtype="datetime64[D]").astype("datetime64[s]"),
        context=np.array([[1], [3], [9], [9]], np.float32), context_names=("rsi_14",),
        y_ret=np.array([[0.1], [-0.1], [0.1], [0.1]], np.float32),
        ohlcv_norm=np.stack([np.full((2, 5), x) for x in (0.2, 0.4, 1.0, 1.0)]).astype(np.float32),
        embedding=np.array([[1, 2], [3, 6], [50, 50], [50, 50]], np.float32),
    )  # fmt: skip
    train = np.array([0, 1])
    resident = DeviceWindows(windows, windows.embedding, Fitted.fit(windows, train), torch.device("cpu"))
    bars, embedding, context = explain.average_window(resident, train)
    torch.testing.assert_close(bars, torch.full((1, 2, 5), 0.3))
    assert embedding.tolist() == [[2.0, 4.0]] and context.tolist() == [[0.0]]
    (of_train,) = resident.sweep(train, 2)
    assert of_train.x_ctx.mean() == 0


def test_every_feature_has_its_family():
    families = [feature_family(name) for name in NAMES]
    assert [families.count(f) for f in dict.fromkeys(families)] == [5, 12, 12]
    assert list(dict.fromkeys(families)) == ["timeframe alignment", "smart-money structure", "technical"]
    assert feature_family("context_0") == "other context"
