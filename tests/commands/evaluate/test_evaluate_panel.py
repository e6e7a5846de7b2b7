"""`stockenh evaluate` of a panel: files, tables, verdict, and what is left with few symbols or no bars."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bars import write_bars, write_windows

from stockenh.commands.evaluate import report as evaluate
from stockenh.commands.evaluate.panel import EARLY, ended_early, rows_of
from stockenh.commands.evaluate.report import evaluate_run
from stockenh.config import build
from stockenh.config.schema import EvaluateRunConfig, config_of, parse, to_dict
from stockenh.data.bars import Bars
from stockenh.evaluation import baselines
from stockenh.storage.run_folder import RunFolder

pytestmark = pytest.mark.slow

QUICK = ["evaluate.resamples=200", "tta.views=0"]
MARKET = ["data=synthetic_small", "data.bars=600", "data.lookback=20", "split.test=0.3"]
PICTURES = ("quantiles", "tranches", "decay", "years")


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Boosted trees of a tenth of their size, and pictures only where a test requests them."""
    monkeypatch.setattr(baselines, "ROUNDS", 20)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(evaluate, "pictures", lambda *arguments: [])


def recipe(small_run: list[str], *data: str) -> list[str]:
    return [*(word for word in small_run if not word.startswith(("data", "split"))), *data]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("panel")


@pytest.fixture(params=[pytest.param("absolute", marks=pytest.mark.deep), "rank"])
def run(request, stockenh, folder, small_run, here):
    """A run on eight generated symbols, which a network finds to be predictable."""
    run = folder / request.param
    if not run.exists():
        given = [f"target={request.param}", "train.epochs=3", "optimizer.lr=1e-2", f"hydra.run.dir={run}"]
        stockenh("train", *recipe(small_run, *MARKET), *given, code=0)
    return run


def report_of(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_the_report_of_a_panel(run, stockenh, pictures):
    answer = stockenh("evaluate", f"run={run}", *QUICK, code=0)
    found, page = report_of(run / "report"), (run / "report/evaluation.md").read_text()
    panel = found["panel"]
    assert list(found)[:1] == ["verdict"] and list(panel["horizons"]) == ["h3", "h5", "h10"]
    assert panel["symbols_a_day"] == 8 and panel["quantiles"] == 5 and panel["execution"] == "open"
    assert panel["exposures"]["volatility"] == "60 bars" and panel["ended_early"]["ended"] == 0
    assert "survivorship" not in answer.out  # a generated market has no survivors
    for horizon, of in panel["horizons"].items():
        rank_ic = found["horizons"][horizon]["forecasts"]["model"]["rank_ic"]
        assert {name: of["rank_ic"][name] for name in rank_ic} == pytest.approx(rank_ic)
        at_horizon = of["decay"][int(horizon[1:]) - 1]
        assert at_horizon["mean"] == pytest.approx(rank_ic["mean"])
        assert at_horizon["dates"] == rank_ic["dates"] and len(of["decay"]) == 20
        assert of["rank_ic"]["p_holm"] >= of["rank_ic"]["p"]
        assert len(of["by_quantile"]) == 5 and of["tranches"]["break_even_low"] is not None
    # verdict first, on the screen and on the page
    verdict = [of["text"] for of in found["verdict"].values()]
    assert answer.out.splitlines()[:3] == [f"verdict  {text}" for text in verdict]
    assert page.splitlines()[2:5] == [f"- **{text}**" for text in verdict]
    of_target = "" if run.name == "absolute" else ", target rank"
    for bars, text in zip((3, 5, 10), verdict, strict=True):
        assert text.startswith(f"{bars} bars, test part{of_target}: the model") and "rank IC" in text
        assert ("always up" in text or "always down" in text) == (run.name == "absolute")
        assert ("the day's median" in text) == (run.name == "rank")
    for name in PICTURES:
        assert (run / f"report/evaluation_{name}.png").stat().st_size > 10_000
        assert f"(evaluation_{name}.png)" in page
    titles = ["Order of the day's symbols", "Returns of the bottom and the top of 5 quantiles",
              "Top less bottom in overlapping tranches", "Returns by quantile", "How long the order lasts",
              "Rank IC by part", "Rank IC with returns over", "Daily IC", "Direction"]  # fmt: skip
    places = [page.index(f"## {name}") for name in titles]
    assert places == sorted(places)
    tables = answer.out.split("evaluate test part")[1].split("\nn/a  ")[0]
    assert "Top less bottom in overlapping" in tables and "Rank IC by part" not in tables
    assert max(map(len, tables.splitlines()[1:])) <= 80


def test_accuracy_comes_after_rank_ic_auc_and_log_loss(run, stockenh):
    stockenh("evaluate", f"run={run}", *QUICK, "hydra.run.dir=mine", code=0)
    for line in Path("mine/evaluation.md").read_text().splitlines():
        heads = [head.strip() for head in line.split("|")]
        if "accuracy" in heads:
            before = [name for name in ("rank IC", "AUC", "log loss", "Brier") if name in heads]
            assert all(heads.index(name) < heads.index("accuracy") for name in before) and before


def test_the_decay_ends_with_the_labels_of_the_part(run):
    folder = RunFolder(run)
    config = parse(to_dict(config_of(folder)), EvaluateRunConfig)
    whole = evaluate_run(folder, None, quicker(config))
    part = evaluate_run(folder, None, quicker(config, until="2014-01-10"))
    assert part["to"] <= "2014-01-10" < whole["to"]
    for horizon, of in part["panel"]["horizons"].items():
        dates = [point["dates"] for point in of["decay"]]
        assert dates[:10] == [part["dates"]] * 10, horizon  # labels over 10 bars are there for all
        assert dates[10:] == [part["dates"] - late for late in range(1, 11)], horizon


def quicker(config: EvaluateRunConfig, **given) -> EvaluateRunConfig:
    return replace(
        config, evaluate=replace(config.evaluate, resamples=100, **given), tta=replace(config.tta, views=0)
    )


def test_quantiles_and_costs_can_be_set(run, stockenh, refused):
    given = ("evaluate", f"run={run}", *QUICK)
    stockenh(*given, "evaluate.quantiles=4", "evaluate.cost_bps=0", "hydra.run.dir=four", code=0)
    of = report_of(Path("four"))["panel"]["horizons"]["h5"]
    assert len(of["by_quantile"]) == 4
    assert of["tranches"]["total"] == pytest.approx(of["tranches"]["gross_total"])
    answer = stockenh(*given, "evaluate.quantiles=9", "hydra.run.dir=nine", code=0)
    flat = " ".join(answer.out.split())
    assert "no date has 9 symbols in a strict order; set evaluate.quantiles" in flat
    assert "overlapping tranches" not in flat and "Order of the day's symbols" in flat
    assert "evaluate.quantiles=1 must be at least 2" in refused(*given, "evaluate.quantiles=1")


def test_ready_windows_have_what_takes_no_bars(stockenh, here, small_run):
    write_windows(here / "windows.parquet", rows=900, symbols=3, planted=20)
    rows = np.arange(900)
    days = np.datetime64("2022-01-03", "ms") + rows // 6 * np.timedelta64(1, "D")
    frame = pl.read_parquet("windows.parquet")
    frame = frame.with_columns(pl.Series("symbol", [f"S{i % 6}" for i in rows]), pl.Series("asof", days))
    frame.write_parquet("windows.parquet")
    data = ["data=windows", "data.path=windows.parquet", "split.test=0.4"]
    kept = [word for word in recipe(small_run, *data) if not word.startswith("embedding")]
    stockenh("train", *kept, "hydra.run.dir=run", code=0)
    answer = stockenh("evaluate", "run=run", *QUICK, code=0)
    panel = report_of(Path("run/report"))["panel"]
    of = panel["horizons"]["h5"]
    assert of["decay"] is None and of["tranches"] is None and of["top_less_bottom"]["mean"] is not None
    assert panel["exposures"] == {} and panel["ended_early"] is None
    assert "data=windows has no raw bars" in answer.out and "n/a" in answer.out


@pytest.fixture
def six(here):
    """Six symbols: one ends early, one is listed in mid-history, one misses every seventh day."""
    bars = here / "six"
    bars.mkdir()
    for number in range(6):
        write_bars(bars / f"S{number}.csv", seed=number, bars=320)
    for name, keep in (("S1", slice(0, 240)), ("S2", slice(150, None))):
        head, *lines = (bars / f"{name}.csv").read_text().splitlines()
        (bars / f"{name}.csv").write_text("\n".join([head, *lines[keep]]) + "\n")
    head, *lines = (bars / "S3.csv").read_text().splitlines()
    kept = [line for place, line in enumerate(lines) if place % 7]
    (bars / "S3.csv").write_text("\n".join([head, *kept]) + "\n")
    return bars


def test_symbols_that_come_go_and_pause(stockenh, six, small_run):
    given = [f"data.path={six}", "data=files", "data.lookback=20", "split.test=0.4"]
    stockenh("train", *recipe(small_run, *given), "hydra.run.dir=run", code=0)
    answer = stockenh("evaluate", "run=run", *QUICK, code=0)
    panel = report_of(Path("run/report"))["panel"]
    assert panel["ended_early"] == {"symbols": 6, "ended": 1, "share": 1 / 6, "dates": EARLY}
    assert "1 of 6 symbols (16.7%) end more than 20 dates before the last one" in answer.out
    assert "survivorship" not in answer.out
    for of in panel["horizons"].values():
        assert 0 < of["top_less_bottom"]["dates"] < of["rank_ic"]["dates"] == of["day_mean"]["dates"]
        assert of["tranches"]["sharpe"] is not None and of["residual"] is None
    assert "it takes 10 symbols of a date" in answer.out


def test_symbols_that_all_last_are_a_sign_of_survivorship():
    days = np.arange("2020-01-01", "2020-12-31", dtype="datetime64[D]")

    def bars(*ends: int) -> Bars:
        return Bars.from_series([(f"S{n}", days[:end], np.ones((end, 5))) for n, end in enumerate(ends)])

    assert ended_early(bars(365, 365, 346))["ended"] == 0
    assert ended_early(bars(365, 365, 344))["share"] == pytest.approx(1 / 3)
    # of a symbol with a gap the last series counts
    split = [("A", days[:50], np.ones((50, 5))), ("A", days[300:], np.ones((65, 5)))]
    assert ended_early(Bars.from_series(split)) == {"symbols": 1, "ended": 0, "share": 0, "dates": EARLY}


def test_the_folds_of_a_walk_forward_are_one_panel(stockenh, small_run, here):
    walk = [*recipe(small_run, *MARKET[:-1]), "split=walk_forward", "split.folds=3", "data.horizons=[1,3]"]
    stockenh("train", *walk, "split.fold=0,1,2", "--multirun", "hydra.sweep.dir=sweep", code=0)
    answer = stockenh("evaluate", "run=sweep", *QUICK, code=0)
    assert answer.out.startswith("verdict  1 bar, test parts of 3 folds: the model")
    assert_bars_are_those_of_the_rows("h3", Path("sweep/report"))


def test_a_path_of_combinations_is_a_panel(stockenh, small_run, here):
    """Its rows are parts of several test parts, in another order than the windows."""
    given = ["split=cpcv", "split.groups=3", "split.test_groups=2", "data.horizons=[1,3]"]
    given = [*recipe(small_run, *MARKET[:-1]), *given, "split.combination=0,1,2"]
    stockenh("train", *given, "--multirun", "hydra.sweep.dir=sweep", code=0)
    stockenh("evaluate", "run=sweep", *QUICK, code=0)
    assert_bars_are_those_of_the_rows("h3", Path("sweep/report"))


def assert_bars_are_those_of_the_rows(horizon: str, report: Path) -> None:
    found = report_of(report)
    rank_ic = found["horizons"][horizon]["forecasts"]["model"]["rank_ic"]
    of = found["panel"]["horizons"][horizon]
    assert of["rank_ic"]["mean"] == pytest.approx(rank_ic["mean"])
    at_horizon = of["decay"][int(horizon[1:]) - 1]
    assert at_horizon["mean"] == pytest.approx(rank_ic["mean"]) and at_horizon["dates"] == rank_ic["dates"]


def test_rows_find_their_bars_whatever_their_order(run):
    """Forecasts of several parts come in another order than the windows."""
    folder = RunFolder(run)
    windows = build.windows(config_of(folder))
    rows = np.random.default_rng(0).permutation(len(windows))[:500]
    names = np.array(windows.symbols)[windows.symbol[rows]]
    np.testing.assert_array_equal(rows_of(windows, windows.asof[rows], names), rows)
