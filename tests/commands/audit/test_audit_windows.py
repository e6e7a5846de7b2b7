"""The audit of ready windows: what a notebook may have done to them before they came here."""

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
def honest():
    """The newest 500 bars of the sample's symbols as windows of 20 bars, and their normalised prices."""
    settings = SampleData(horizons=[3, 5], lookback=20)
    whole = settings.load(DiskCache(None)).windows
    assert isinstance(whole, BarWindows)
    days = np.unique(whole.asof)[-500:]
    windows = whole.take(np.flatnonzero(np.isin(whole.asof, days) & np.isfinite(whole.y_ret).all(1)))
    prices = windows.prices(torch.device("cpu"))
    return windows, prices.gather(torch.arange(len(windows)), NoAugment()).numpy()


@pytest.fixture
def audited(honest, here, stockenh):
    """Writes the windows as a notebook would, trains on them and audits: audit.json."""

    def run(code, **changed):
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
        stockenh("train", "data=windows", "data.path=windows.parquet", *TINY, "hydra.run.dir=run", code=0)
        stockenh("audit", "run=run", *QUICK, code=code)
        return json.loads(Path("run/report/audit.json").read_text())

    return run


def check(found: dict, name: str) -> dict:
    (one,) = [c for c in found["checks"] if c["name"] == name]
    return one


def by_symbol(windows: BarWindows) -> list[np.ndarray]:
    return [np.flatnonzero(windows.symbol == symbol) for symbol in range(len(windows.symbols))]


def test_honest_windows_pass_and_later_bars_are_not_available(audited):
    found = audited(code=0)
    assert found["leaks"] == []
    later = check(found, "later bars")
    assert later["finding"] == "n/a" and "no raw bars" in later["measured"]
    for name in ("dates of windows", "file's own scaling"):
        assert check(found, name)["finding"] == "pass"


def labels_in_column_7(windows):
    context = windows.context.copy()
    context[:, 7] = windows.y_ret[:, 1] > 0
    return context


def backfilled_momentum_in_column_28(windows):
    close = windows.bars.ohlcv[:, 3]
    momentum = close[windows.end] / close[windows.end - 3] - 1
    context = windows.context.copy()
    context[:, 28] = momentum
    for rows in by_symbol(windows):
        context[rows[:-3], 28] = momentum[rows[3:]]  # the next value that there is, three bars on
    return context


@pytest.mark.parametrize(
    ("planted", "column"), [(labels_in_column_7, 7), (backfilled_momentum_in_column_28, 28)]
)
def test_a_context_that_knows_a_label_is_caught(audited, honest, planted, column):
    found = audited(code=1, context=planted(honest[0]))
    assert found["leaks"] == ["inputs and labels"]
    beyond = check(found, "inputs and labels")["figures"]["beyond"]
    assert beyond == [honest[0].context_names[column]]


def test_dates_that_were_shuffled_are_caught(audited, honest):
    asof = honest[0].asof.copy()
    for symbol, rows in enumerate(by_symbol(honest[0])):
        asof[rows] = np.random.default_rng(symbol).permutation(asof[rows])
    found = audited(code=1, asof=asof)
    figures = check(found, "dates of windows")["figures"]
    assert found["leaks"] == ["dates of windows"]
    assert figures["found_in_train"] > 0.8 * figures["windows"]


def test_windows_written_twice_under_other_dates_are_caught(audited, honest):
    windows = honest[0]
    later = windows.asof[:40] + (windows.asof.max() - windows.asof.min())
    context, y_ret = (np.concatenate([a, a[:40]]) for a in (windows.context, windows.y_ret))
    asof = np.concatenate([windows.asof, later])
    found = audited(code=1, asof=asof, context=context, y_ret=y_ret)
    assert {"duplicates"} <= set(found["leaks"]) <= {"duplicates", "dates of windows"}
    assert check(found, "duplicates")["figures"]["equal"]["train and test"] == 40
