"""A run on generated data tells the limit everywhere, a run on other data nowhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stockenh.data.batches import DeviceWindows, Micro
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted
from stockenh.data.prices import NoAugment
from stockenh.data.sources.synthetic import SyntheticData, best_probabilities, generate

MARKET = ["data=synthetic", "data.symbols=4", "data.bars=400", "data.lookback=20"]
SMALL = [
    "device=cpu", "embedding=none", "train.epochs=2", "model.layers=1", "model.d_model=16", "model.heads=2",
    "model.ffn=16",
]  # fmt: skip


@pytest.fixture
def summary_of(stockenh, here):
    def run(*overrides):
        answer = stockenh("train", *overrides, *SMALL, "hydra.run.dir=run", code=0)
        return json.loads((here / "run/summary.json").read_text()), answer.out

    return run


def test_every_part_and_horizon_has_its_limit(summary_of):
    summary, out = summary_of(*MARKET)
    assert set(summary["parts"]) == {"train", "val", "test"}
    settings = SyntheticData(symbols=4, bars=400)
    best = best_probabilities(generate(settings), settings, [3, 5, 10]).reshape(4, 400, 3)
    test_bars = slice(-summary["parts"]["test"]["h3"]["n"] // 4 - 3, -3)
    by_hand = np.maximum(best, 1 - best)[:, test_bars, 0].mean()
    for part in summary["parts"].values():
        for m in part.values():
            share = (m["accuracy"] - m["majority"]) / (m["limit_accuracy"] - m["majority"])
            assert m["gap_closed"] == pytest.approx(share)
            assert m["limit_log_loss"] < m["log_loss"]
    assert summary["parts"]["test"]["h3"]["limit_accuracy"] == pytest.approx(by_hand, abs=1e-12)
    assert "limit" in out and "closed" in out


def test_noise_has_a_limit_of_one_half_and_no_gap(summary_of):
    summary, _ = summary_of(*MARKET, "data.strength=0")
    for m in summary["parts"]["test"].values():
        assert m["limit_accuracy"] == pytest.approx(0.5, abs=1e-9)
        assert m["limit_log_loss"] == pytest.approx(np.log(2), abs=1e-9)
        assert m["gap_closed"] is None


def test_other_data_have_no_such_figures(summary_of, bars_folder):
    summary, out = summary_of("data=files", f"data.path={bars_folder}", "data.lookback=20")
    figures = {name for part in summary["parts"].values() for m in part.values() for name in m}
    assert not figures & {"limit_accuracy", "limit_log_loss", "gap_closed"}
    assert "limit" not in out


def test_a_model_sees_the_same_with_and_without_the_answer():
    windows = SyntheticData(symbols=2, bars=200).load(DiskCache(None)).windows
    fitted, embedding = Fitted.fit(windows, np.arange(40)), np.zeros((len(windows), 0), np.float32)
    seen = [
        DeviceWindows(known, embedding, fitted, torch.device("cpu")).gather(torch.arange(9), NoAugment())
        for known in (windows, replace(windows, best_prob=None))
    ]
    for name in set(Micro.__dataclass_fields__) - {"teacher", "day"}:
        assert torch.equal(getattr(seen[0], name), getattr(seen[1], name))


PANEL = ["data=synthetic_panel", "data.symbols=12", "data.bars=600", "data.lookback=20", "target=rank"]


@pytest.mark.parametrize("strength", [0, 3])
def test_a_panel_has_the_rank_ic_of_the_best_forecast_beside_that_of_the_run(
    summary_of, stockenh, here, strength
):
    summary, out = summary_of(*PANEL, f"data.strength={strength}")
    assert "its limit" in out
    shown = stockenh("evaluate", "run=run", "evaluate.resamples=200", "hydra.run.dir=report", code=0).out
    horizons = json.loads((here / "report/evaluation.json").read_text())["horizons"]
    assert "limit of rank IC" in shown and "that of the best possible forecast" in " ".join(shown.split())
    for horizon, figures in horizons.items():
        limit, own = figures["limit_rank_ic"], figures["forecasts"]["model"]["rank_ic"]
        scores = summary["parts"]["test"][horizon]
        assert scores["limit_rank_ic"] == pytest.approx(limit["mean"])
        assert scores["rank_ic"] == pytest.approx(own["mean"])
        if strength:
            assert own["mean"] < limit["high"] and limit["low"] > 0.1
        else:
            assert limit["low"] == limit["mean"] == limit["high"] == 0
    lines = [json.loads(line) for line in (here / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["by_weights"]["raw"]["h3"]["limit_rank_ic"] is not None
