"""The audit of ready windows: what a notebook may have done to them before they came here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from stockenh.data.cache import DiskCache
from stockenh.data.prices import NoAugment
from stockenh.data.sources.files import SampleData
from stockenh.data.windows import BarWindows

TINY = [
    "device=cpu", "data.horizons=[3,5]", "embedding=none", "train.epochs=1", "model.layers=1",
    "model.d_model=16", "model.heads=2", "model.ffn=16",
]  # fmt: skip
QUICK = ["audit.dates=2", "audit.shuffles=2", "audit.windows=300"]


@pytest.fixture(scope="module")
def honest() -> tuple[BarWindows, np.ndarray]:
    """The newest 500 bars of the sample's symbols as windows of 20 bars, and their normalised prices."""
    settings = SampleData(horizons=[3, 5], lookback=20)
    whole = settings.load(DiskCache(None)).windows
    assert isinstance(whole, BarWindows)
    days = np.unique(whole.asof)[-500:]
    windows = whole.take(np.flatnonzero(np.isin(whole.asof, days) & np.isfinite(whole.y_ret).all(1)))
    prices = windows.prices(torch.device("cpu"))
    return windows, prices.gather(torch.arange(len(windows)), NoAugment()).numpy()


@pytest.fixture
def audited(honest, tmp_path, monkeypatch, stockenh):
    """Writes the windows as a notebook would, trains on them and audits: code and audit.json."""
    monkeypatch.chdir(tmp_path)

    def run(code: int, **changed: np.ndarray):
        windows, x_price = honest
        of = {"asof": windows.asof, "context": windows.context, "y_ret": windows.y_ret, **changed}
        symbols = np.array(windows.symbols)[windows.symbol]
        if len(of["asof"]) > len(symbols):
            symbols, x_price = (np.concatenate([a, a[:40]]) for a in (symbols, x_price))
        pl.DataFrame(
            {
                "symbol": symbols,
                "asof": of["asof"].astype("datetime64[ms]"),
                "ohlcv_norm": x_price.reshape(len(symbols), -1),
                "kronos_emb": np.zeros((len(symbols), 2), np.float32),
                "context": of["context"],
                "y_ret": of["y_ret"],
                "y_up": (of["y_ret"] > 0).astype(np.float32),
            }
        ).write_parquet("windows.parquet")
        recipe = ["train", "data=windows", "data.path=windows.parquet", *TINY, "hydra.run.dir=run"]
        trained = stockenh(*recipe)
        assert trained.code == 0, trained.err
        answer = stockenh("audit", "run=run", *QUICK)
        assert answer.code == code, answer.out + answer.err
        return json.loads(Path("run/report/audit.json").read_text())

    return run


def check(found: dict, name: str) -> dict:
    (one,) = [c for c in found["checks"] if c["name"] == name]
    return one


def test_honest_windows_pass_and_later_bars_are_not_available(audited):
    found = audited(code=0)
    assert found["leaks"] == []
    later = check(found, "later bars")
    assert later["finding"] == "n/a" and "no raw bars" in later["measured"]
    assert check(found, "dates of windows")["finding"] == "pass"
    assert check(found, "file's own scaling")["finding"] == "pass"


def test_a_label_column_in_the_context_is_caught(audited, honest):
    windows = honest[0]
    context = windows.context.copy()
    context[:, 7] = windows.y_ret[:, 1] > 0
    found = audited(code=1, context=context)
    assert found["leaks"] == ["inputs and labels"]
    assert check(found, "inputs and labels")["figures"]["beyond"] == [windows.context_names[7]]


def test_a_backfilled_context_is_caught_by_what_it_knows(audited, honest):
    windows, _ = honest
    momentum = windows.bars.ohlcv[windows.end, 3] / windows.bars.ohlcv[windows.end - 3, 3] - 1
    backfilled = momentum.copy()
    for symbol in range(len(windows.symbols)):
        rows = np.flatnonzero(windows.symbol == symbol)
        backfilled[rows[:-3]] = momentum[rows[3:]]  # the next value that there is, three bars on
    context = windows.context.copy()
    context[:, 28] = backfilled
    found = audited(code=1, context=context)
    assert check(found, "inputs and labels")["figures"]["beyond"][0] == windows.context_names[28]


def test_a_scaler_that_saw_all_rows_is_caught(audited, honest):
    context = honest[0].context
    scaled = (context - context.mean(0)) / np.where(context.std(0) > 0, context.std(0), 1)
    found = audited(code=1, context=scaled.astype(np.float32))
    assert found["leaks"] == ["file's own scaling"]


def test_dates_that_were_shuffled_are_caught(audited, honest):
    windows = honest[0]
    asof = windows.asof.copy()
    for symbol in range(len(windows.symbols)):
        rows = np.flatnonzero(windows.symbol == symbol)
        asof[rows] = np.random.default_rng(symbol).permutation(asof[rows])
    found = audited(code=1, asof=asof)
    dates = check(found, "dates of windows")
    assert found["leaks"] == ["dates of windows"]
    assert dates["figures"]["found_in_train"] > 0.8 * dates["figures"]["windows"]


def test_windows_written_twice_under_other_dates_are_caught(audited, honest):
    windows = honest[0]
    later = windows.asof[:40] + (windows.asof.max() - windows.asof.min())
    found = audited(
        code=1,
        asof=np.concatenate([windows.asof, later]),
        context=np.concatenate([windows.context, windows.context[:40]]),
        y_ret=np.concatenate([windows.y_ret, windows.y_ret[:40]]),
    )
    assert {"duplicates"} <= set(found["leaks"]) <= {"duplicates", "dates of windows"}
    assert check(found, "duplicates")["figures"]["equal"]["train and test"] == 40
