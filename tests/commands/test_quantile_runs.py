"""A run of a model with quantiles: its conformal.json, evaluation and forecasts; other runs have none."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from stockenh.commands.evaluate import report as evaluate
from stockenh.evaluation import baselines

TFT = ["model=tft_xl", "model.d_model=16", "model.heads=2", "model.lstm_layers=1", "model.fusion_layers=1"]


@pytest.fixture(scope="module")
def recipe(small_run):
    return [*[w for w in small_run if not w.startswith(("model", "embedding"))], *TFT, "embedding=none"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(baselines, "ROUNDS", 5)
    monkeypatch.setattr(evaluate, "pictures", lambda *arguments: [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quantiles") / "run"


@pytest.fixture
def run(stockenh, recipe, folder):
    """Trained once."""
    if not folder.exists():
        stockenh("train", *recipe, f"hydra.run.dir={folder}", code=0)
    return folder


def forecast(stockenh, run, to, *more):
    answer = stockenh("tta-predict", f"run={run}", f"hydra.run.dir={to}", *more, code=0)
    return pl.read_parquet(to / "forecast.parquet"), answer.out


def test_the_interval_covers_its_share_of_validation_and_is_forecast(run, stockenh, tmp_path):
    widening = json.loads((run / "conformal.json").read_text())["raw"]["widening"]
    assert len(widening) == 3
    frame, _ = forecast(stockenh, run, tmp_path / "views")
    assert (frame["ret_p10"] < frame["ret_p90"]).all() and frame["ret_p10"].is_finite().all()
    # of the window itself: views change the forecast return only
    plain, _ = forecast(stockenh, run, tmp_path / "plain", "tta.views=0")
    assert plain["ret_p90"].equals(frame["ret_p90"]) and not plain["ret"].equals(frame["ret"])
    assert ((plain["ret_p10"] <= plain["ret"]) & (plain["ret"] <= plain["ret_p90"])).all()
    # a wider file widens both sides
    wider = tmp_path / "wider"
    shutil.copytree(run, wider)
    stored = {
        name: {"widening": [w + 0.5 for w in widening]}
        for name in json.loads((run / "conformal.json").read_text())
    }
    (wider / "conformal.json").write_text(json.dumps(stored))
    moved, _ = forecast(stockenh, wider, tmp_path / "moved", "tta.views=0")
    np.testing.assert_allclose(moved["ret_p90"] - plain["ret_p90"], 0.5)
    np.testing.assert_allclose(plain["ret_p10"] - moved["ret_p10"], 0.5)


def test_evaluate_scores_quantiles(run, stockenh, tmp_path):
    answer = stockenh(
        "evaluate", f"run={run}", "evaluate.resamples=100", f"hydra.run.dir={tmp_path}/e", code=0
    )
    found = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert "Quantiles, test part" in answer.out
    for figures in found["quantiles"].values():
        assert figures["pinball"]["value"] > 0 and figures["pinball_train"] > 0
        assert 0 <= figures["coverage"]["value"] <= 1 and 0 <= figures["conformal"]["value"] <= 1


def test_a_run_of_an_earlier_version_has_no_interval_and_says_so(run, stockenh, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "conformal.json").unlink()
    frame, out = forecast(stockenh, old, tmp_path / "f")
    assert "ret_p10" not in frame.columns and "ret_p10 and ret_p90 are unknown: an older version" in out
    stockenh("evaluate", f"run={old}", "evaluate.resamples=100", f"hydra.run.dir={tmp_path}/e", code=0)
    figures = json.loads((tmp_path / "e/evaluation.json").read_text())["quantiles"]["h3"]
    assert figures["conformal"] is None and figures["coverage"] is not None


def test_a_hostile_file_is_refused_with_a_line(run, stockenh, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(run, bad)
    (bad / "conformal.json").write_text('{"raw": {"widening": [1]}}')
    answer = stockenh("tta-predict", f"run={bad}", f"hydra.run.dir={tmp_path}/f")
    assert answer.code not in (0, None) and "conformal.json" in answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize(
    "more",
    [["loss.returns=huber"], ["model.quantiles=[0.05,0.5,0.95]"], ["split=all"]],
)
def test_runs_without_an_interval_have_no_columns(recipe, stockenh, tmp_path, more):
    own = [w for w in recipe if not (more == ["split=all"] and w.startswith("split."))]
    stockenh("train", *own, *more, f"hydra.run.dir={tmp_path}/run", code=0)
    assert not (tmp_path / "run/conformal.json").exists()
    frame, out = forecast(stockenh, tmp_path / "run", tmp_path / "f")
    assert not {"ret_p10", "ret_p90"} & set(frame.columns)
    assert ("the run held nothing out" in out) == (more == ["split=all"])
    if more == ["split=all"]:
        return
    stockenh(
        "evaluate", f"run={tmp_path}/run", "evaluate.resamples=100", f"hydra.run.dir={tmp_path}/e", code=0
    )
    quantiles = json.loads((tmp_path / "e/evaluation.json").read_text())["quantiles"]
    assert (quantiles is None) == (more == ["loss.returns=huber"])


def test_other_models_have_neither_file_nor_columns(finished_run, stockenh, tmp_path):
    assert not (finished_run / "conformal.json").exists()
    frame, _ = forecast(stockenh, finished_run, tmp_path / "f")
    assert "ret_p10" not in frame.columns
