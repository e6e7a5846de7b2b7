"""The package's verbs, as a notebook calls them."""

import logging
import random
import sys
import threading
from pathlib import Path

import nbformat
import numpy as np
import pandas
import polars as pl
import pytest
import torch
from nbclient import NotebookClient

import stockenh
from stockenh.errors import ConfigError, DataError, RunFolderError

ROOT = Path(__file__).parents[1]
SMALL = {
    "data.lookback": 20, "embedding.width": 32, "device": "cpu", "train.epochs": 1, "train.batch_size": 64,
    "model.layers": 1, "model.d_model": 16, "model.heads": 2, "model.ffn": 16,
}  # fmt: skip


def bars(seed=0, count=200, symbol=None):
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    days = np.datetime64("2020-01-01") + np.arange(count)
    columns = {"date": days, "open": close, "high": close * 1.01, "low": close * 0.99, "close": close,
               "volume": np.full(count, 1e6)}  # fmt: skip
    return pl.DataFrame(columns if symbol is None else {"symbol": [symbol] * count, **columns})


def to_pandas(frame):
    return pandas.DataFrame({name: frame[name].to_numpy() for name in frame.columns})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = {"AAA": bars(1), "BBB": bars(2)}
    return stockenh.train(SMALL, data=data, directory=tmp_path_factory.mktemp("api") / "run", quiet=True)


def test_a_run_of_own_frames_has_its_scores_and_its_bars(run):
    assert set(run.scores["part"]) == {"train", "val", "test"} and set(run.scores["horizon"]) == {3, 5, 10}
    assert run.history["epoch"].to_list() == [1]
    assert len(run.verdicts) == 3 and run.config["train"]["epochs"] == 1
    assert (run.path / "bars.parquet").exists() and run.summary["windows"] > 0
    assert stockenh.Run.open(run.path) == run
    assert "accuracy.png" in {path.name for path in run.pictures}


@pytest.mark.parametrize("kind", ["polars", "pandas", "pandas index", "mapping", "path", "none"])
def test_forecasts_come_in_the_kind_of_the_bars(kind, run, tmp_path):
    new = bars(3, 60, symbol="NEW")
    if kind == "path":
        new.write_csv(tmp_path / "new.csv")
    given = {
        "polars": lambda: new,
        "pandas": lambda: to_pandas(new),
        "pandas index": lambda: to_pandas(new).set_index(["symbol", "date"]),
        "mapping": lambda: {"NEW": to_pandas(bars(3, 60)).set_index("date")},
        "path": lambda: tmp_path / "new.csv",
        "none": lambda: None,
    }[kind]()
    found = run.forecast(given)
    is_pandas = kind in ("pandas", "pandas index", "mapping")
    assert isinstance(found, pandas.DataFrame if is_pandas else pl.DataFrame)
    assert list(found.columns) == [
        "symbol", "date", "horizon", "ret", "up_prob", "uncertainty", "confident", "score", "rank"
    ]  # fmt: skip
    assert set(found["symbol"]) == ({"AAA", "BBB"} if kind == "none" else {"NEW"})
    if kind not in ("polars", "none"):
        assert np.allclose(found["up_prob"].to_numpy(), run.forecast(new)["up_prob"].to_numpy())


def test_a_frame_without_symbols_is_one_symbol(run):
    assert set(run.forecast(bars(3, 60))["symbol"]) == {"FRAME"}


def test_evaluate_gives_figures_and_leaves_the_report(run):
    found = run.evaluate(None, {"tta.views": 0, "evaluate.resamples": 100})
    assert len(found.verdicts) == 3 and str(found).startswith("3 bars")
    assert {"model", "calibrated", "logistic"} <= set(found.scores["forecast"])
    assert (run.path / "report" / "evaluation.json").exists()
    other = stockenh.evaluate(run, {"NEW": bars(5)}, {"tta.views": 0, "evaluate.resamples": 100})
    assert other.figures["symbols"] == 1


def test_several_runs_forecast_as_one(run, tmp_path):
    other = stockenh.train({**SMALL, "seed": 7}, data={"AAA": bars(1), "BBB": bars(2)},
                           directory=tmp_path / "other", quiet=True)  # fmt: skip
    mean = stockenh.forecast([run, other.path], bars(3, 60), "tta.views=0")["ret"].to_numpy()
    each = [one.forecast(bars(3, 60), "tta.views=0")["ret"].to_numpy() for one in (run, other)]
    assert np.allclose(mean, np.mean(each, 0), atol=1e-6)


def test_a_run_goes_on(tmp_path):
    directory = tmp_path / "run"
    first = stockenh.train(SMALL, data={"AAA": bars(1), "BBB": bars(2)}, directory=directory, quiet=True)
    assert first.resume({"train.epochs": 2}, quiet=True).history["epoch"].to_list() == [1, 2]


def test_nothing_of_the_process_changes(run, capsys):
    def state():
        root = logging.getLogger()
        return (
            list(root.handlers), root.level, torch.get_num_threads(), torch.get_rng_state().tolist(),
            random.getstate(), np.random.get_state()[1].tolist(), list(sys.argv), threading.active_count(),
            Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype(),
        )  # fmt: skip

    torch.set_num_threads(2)
    before = state()
    run.forecast(bars(3, 60))
    with pytest.raises(ConfigError):
        run.forecast(bars(3, 60), "tta.view=3")
    assert state() == before
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == ""


def test_it_works_in_another_thread(run):
    found = []
    worker = threading.Thread(target=lambda: found.append(run.forecast(bars(3, 60))))
    worker.start()
    worker.join()
    assert len(found[0]) == 3


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda run, _: stockenh.train({"train.epoch": 2}, data=bars()), ConfigError, "train.epochs"),
        (lambda run, _: stockenh.train(3, data=bars()), ConfigError, "KEY=VALUE"),
        (lambda run, _: run.forecast(bars(0, 10)), DataError, "data.lookback is 20"),
        (lambda run, _: run.forecast([1, 2]), DataError, "a list is no frame"),
        (lambda run, _: run.forecast({}), DataError, "no frame given"),
        (lambda run, _: run.forecast(bars().drop("close")), DataError, "close"),
        (lambda run, _: stockenh.Run.open("nowhere"), RunFolderError, "no such folder"),
        (lambda run, _: stockenh.train(SMALL, data=bars(), directory=run.path), ConfigError, "already holds"),
    ],
)
def test_what_the_command_line_refuses_is_an_exception(call, kind, message, run, here):
    with pytest.raises(kind, match=message):
        call(run, here)
    assert not list(here.rglob("*.parquet"))


@pytest.mark.deep
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=600, startup_timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "10 bars, test part" in printed and "train.epochs" in printed


def test_the_guide_runs(here):
    data = pl.concat([bars(seed, 300, symbol) for seed, symbol in enumerate(("AAA", "BBB"))])
    names = {"bars": data}
    for block in (ROOT / "docs" / "python.md").read_text().split("```python\n")[1:]:
        exec(block.partition("```")[0], names)
    assert set(names["newest"]["symbol"]) == set(names["mean"]["symbol"]) == {"AAA", "BBB"}
    assert names["more"].history["epoch"].to_list() == [1, 2]
