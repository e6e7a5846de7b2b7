"""`stockenh evaluate`: the report on a finished run, and what is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bars import write_bars, write_windows

from stockenh.commands.evaluate import report as evaluate
from stockenh.commands.evaluate.report import evaluate_run
from stockenh.commands.evaluate.rows import forecast_rows, load, select_rows
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.schema import EvaluateRunConfig, config_of, parse, to_dict
from stockenh.data.bars import CLOSE, OPEN
from stockenh.embedding.compute import unwatched
from stockenh.evaluation import baselines
from stockenh.storage.run_folder import RunFolder

pytestmark = pytest.mark.slow

QUICK = ["evaluate.resamples=200"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs of this file lie; each is trained once."""
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def four(folder):
    """Four symbols of 300 bars of noise, which fill a test part of 70 dates."""
    bars = folder / "four"
    bars.mkdir()
    for number in range(4):
        write_bars(bars / f"S{number}.csv", seed=number, bars=300)
    return bars


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Boosted trees of a tenth of their size, and pictures only where a test requests them."""
    monkeypatch.setattr(baselines, "ROUNDS", 20)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(evaluate, "pictures", lambda *arguments: [])


def recipe_of(small_run: list[str], bars: Path) -> list[str]:
    return [f"data.path={bars}" if word.startswith("data.path=") else word for word in small_run]


@pytest.fixture
def run(stockenh, folder, four, small_run, here):
    run = folder / "four (1)"
    if not run.exists():
        stockenh("train", *recipe_of(small_run, four), f"hydra.run.dir={run}", code=0)
    return run


def report_of(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_the_report_of_a_run(run, stockenh, pictures):
    answer = stockenh("evaluate", f"run={run}", code=0)
    found = report_of(run / "report")
    summary = json.loads((run / "summary.json").read_text())["parts"]["test"]
    assert list(found["horizons"]) == ["h3", "h5", "h10"] and found["part"] == "test part"
    for horizon, of in found["horizons"].items():
        model = of["forecasts"]["model"]
        for name in ("accuracy", "log_loss", "brier", "auc", "mae", "ece"):
            assert model[name] == pytest.approx(summary[horizon][name]), name
        for end in ("accuracy_low", "accuracy_high"):
            assert model[end] == pytest.approx(summary[horizon][end], rel=1e-12), end
        calibrated = of["forecasts"]["calibrated"]
        assert calibrated["log_loss"] == pytest.approx(summary[horizon]["log_loss_calibrated"])
        assert calibrated["ece"] == pytest.approx(summary[horizon]["ece_calibrated"])
        assert all(of[name] == summary[horizon][name] for name in ("n", "ties", "majority"))
        names = ["majority", "persistence", "momentum", "logistic", "boosting", "lightgbm"]
        assert list(of["against"]["calibrated"]) == names
        assert all(of["forecasts"][name]["log_loss"] is not None for name in names)
        assert 0 < of["p_majority"]["calibrated"] <= 1
        assert model["rank_ic"]["dates"] == of["dates"] and calibrated["ic"] is None
    assert all(of["h5"][-1]["coverage"] == 1 for of in found["coverage"].values()) and found["views"] == 2
    assert set(found["curve"]["strategies"]) == {"long/flat", "long/short", "hold"}
    assert found["curve"]["horizon"] == 3 and found["implausible"] == [] and found["folds"] is None
    for name in ("baselines", "reliability", "coverage", "ic", "curve"):
        assert (run / f"report/evaluation_{name}.png").stat().st_size > 10_000
    page = (run / "report/evaluation.md").read_text()
    assert "## Direction, test part" in page and "![evaluation curve](evaluation_curve.png)" in page
    assert page.count("| calibrated |") == 6 and "blocks of 30 dates" in page
    assert answer.out.count("accuracy 3 bars") == 1 and "not shown to be better" in answer.out
    verdict = [line for line in answer.out.splitlines() if line.startswith("verdict")]
    assert (
        verdict
        == answer.out.splitlines()[:3]
        == [f"verdict  {of['text']}" for of in found["verdict"].values()]
    )
    assert all("log loss" in line and "AUC" in line and "always" in line for line in verdict)
    assert found["panel"] is None and "5 or more symbols on two dates or more (4 symbols)" in answer.out
    assert "280 windows of 4 symbols on 70 dates, ending" in answer.out
    assert str(run / "report" / "evaluation.json") in answer.out
    tables = answer.out.split("evaluate test part")[1].split("\nn/a  ")[0]
    assert max(map(len, tables.splitlines()[1:])) <= 80


def test_without_printing_it_is_the_same(run, stockenh, capfd):
    stockenh("evaluate", f"run={run}", "hydra.run.dir=reports/mine", code=0)
    found = evaluate_run(RunFolder(run))
    assert capfd.readouterr().out == ""
    assert json.loads(json.dumps(found)) == report_of(Path("reports/mine"))
    assert "no runs in reports" in stockenh("runs", "reports").out


def test_labels_of_the_test_part_do_not_move_a_forecast(run):
    trained, cpu = Trained.open(RunFolder(run), None), torch.device("cpu")
    config = parse(to_dict(trained.run), EvaluateRunConfig)
    prepared = load(config, trained, cpu, unwatched)
    chosen = select_rows(config, trained, prepared)

    def forecasts_of(selection):
        return forecast_rows(config, trained, selection, cpu, lambda done: None)

    y_ret = prepared.windows.y_ret.copy()
    y_ret[chosen.rows] *= -1
    turned = replace(prepared.windows, y_ret=y_ret)
    other = replace(chosen, prepared=replace(prepared, windows=turned), own=turned)
    first, second = map(forecasts_of, (chosen, other))
    np.testing.assert_array_equal(first.part.y_ret, -second.part.y_ret)
    for name, forecasts in first.forecasts.items():
        for one, two in zip(forecasts, second.forecasts[name], strict=True):
            for key in ("score", "prob", "ret", "signal"):
                np.testing.assert_array_equal(getattr(one, key), getattr(two, key))
    # and those of the train part do
    y_ret[chosen.train] *= -1
    third = forecasts_of(replace(chosen, own=replace(prepared.windows, y_ret=y_ret)))
    assert (third.forecasts["logistic"][0].prob != first.forecasts["logistic"][0].prob).any()


def test_only_part_of_the_test_part(run, stockenh):
    days = dates_of_test(run)
    given = (f"evaluate.from={days[0]}", "evaluate.to=2021-01-15", "hydra.run.dir=mine")
    stockenh("evaluate", f"run={run}", *QUICK, *given, code=0)
    found = report_of(Path("mine"))
    assert found["from"] == days[0] and found["to"] <= "2021-01-15" < days[1]
    assert found["part"] == f"test part, evaluate.from={days[0]} evaluate.to=2021-01-15"


def test_the_curve_trades_at_the_next_open_or_at_the_close_that_decides(run, stockenh, pictures):
    """Holding shows the prices: the first buys equal shares, which grow to the last."""
    config = config_of(RunFolder(run))
    windows = build.windows(config)
    rows = build.split_rows(config.split, windows)["test"]
    first, last = (
        windows.end[rows][windows.asof[rows] == day(windows.asof[rows])] for day in (np.min, np.max)
    )
    for execution, column, delay, says in (
        ("open", OPEN, 1, "traded at the next open"),
        ("close", CLOSE, 0, "traded at the close that decides"),
    ):
        given = [] if execution == "open" else [f"evaluate.execution={execution}"]
        answer = stockenh("evaluate", f"run={run}", *QUICK, *given, f"hydra.run.dir={execution}", code=0)
        curve = report_of(Path(execution))["curve"]
        assert curve["execution"] == execution and curve["dates"] == 70
        price = windows.bars.ohlcv[:, column]
        grown = (price[last + delay + 1] / price[first + delay]).mean() - 1
        assert curve["strategies"]["hold"]["gross_total"] == pytest.approx(grown)
        flat = " ".join(answer.out.split())
        assert says in flat and ("an upper bound where there is skill" in flat) == (execution == "close")
        assert says in Path(execution, "evaluation.md").read_text()
        forecasts = report_of(Path(execution))["horizons"]
        assert forecasts == report_of(Path("open"))["horizons"]


def test_a_part_of_which_nothing_can_be_traded_has_no_curve(small_run, stockenh, here):
    """The newest labelled window of a horizon of 1 has one bar after it."""
    stockenh("train", *small_run, "data.horizons=[1]", "hydra.run.dir=run", code=0)
    given = ("evaluate", "run=run", *QUICK, f"evaluate.from={dates_of_test(Path('run'))[1]}")
    answer = stockenh(*given, code=0)
    assert report_of(Path("run/report"))["curve"] is None
    assert "next-bar curve: no window has two bars after it" in " ".join(answer.out.split())
    stockenh(*given, "evaluate.execution=close", code=0)
    assert report_of(Path("run/report"))["curve"]["dates"] == 1


def dates_of_test(run: Path) -> tuple[str, str]:
    config = config_of(RunFolder(run))
    windows = build.windows(config)
    asof = windows.asof[build.split_rows(config.split, windows)["test"]]
    return str(asof.min())[:10], str(asof.max())[:10]


@pytest.mark.deep
def test_two_symbols_and_a_short_part_have_neither_ic_nor_intervals(stockenh, small_run, here, pictures):
    stockenh("train", *small_run, "hydra.run.dir=run", code=0)
    answer = stockenh("evaluate", "run=run", "tta.views=0", code=0)
    found = report_of(Path("run/report"))
    of = found["horizons"]["h5"]["forecasts"]["model"]
    assert of["accuracy"] is not None and of["accuracy_low"] is None and of["ic"]["mean"] is None
    assert list(found["coverage"]) == ["margin"] and not Path("run/report/evaluation_ic.png").exists()
    flat = " ".join(answer.out.split())
    assert "IC: it compares 3 or more symbols of a date, and no date has them (2 symbols)" in flat
    assert re.search(r"two blocks of 30 dates do not fit into \d\d dates; evaluate.block=1\d would fit", flat)
    assert "coverage by spread over views: tta.views=0" in flat
    assert flat.count("too few dates to test the difference") == 3
    fits = re.search(r"evaluate.block=(\d+) would fit", flat)[1]
    stockenh("evaluate", "run=run", "tta.views=0", f"evaluate.block={fits}", *QUICK, code=0)
    assert report_of(Path("run/report"))["horizons"]["h5"]["forecasts"]["model"]["accuracy_low"] is not None


def test_ready_windows_have_no_curve_and_no_coverage(stockenh, here):
    write_windows(here / "windows.parquet", rows=900, symbols=3, planted=20)
    tiny = ["device=cpu", "train.epochs=8", "optimizer.lr=1e-2", "model.d_model=16", "model.heads=2",
            "model.layers=1", "model.ffn=16", "split.test=0.3"]  # fmt: skip
    data = ["data=windows", "data.path=windows.parquet"]
    stockenh("train", *data, *tiny, "hydra.run.dir=run", code=0)
    answer = stockenh("evaluate", "run=run", *QUICK, code=0)
    found = report_of(Path("run/report"))
    assert found["curve"] is None and list(found["coverage"]) == ["margin"]
    flat = " ".join(answer.out.split())
    assert "next-bar curve: data=windows has no raw bars to trade on" in flat
    assert "coverage by spread over views: data=windows has no raw bars to add noise to" in flat
    # the planted feature is found by all that learn, and such an accuracy is implausible
    assert found["horizons"]["h5"]["forecasts"]["logistic"]["accuracy"] > 0.8
    assert found["implausible"] == ["h3", "h5", "h10"]
    assert "a leak until shown to be none. Checks: stockenh audit run=" in flat


def test_a_generated_market_shows_its_limit_and_is_never_implausible(stockenh, small_run, here):
    kept = [word for word in small_run if not word.startswith("data")]
    market = ["data=synthetic", "data.symbols=4", "data.bars=300", "data.lookback=20"]
    stockenh("train", *market, *kept, "hydra.run.dir=run", code=0)
    answer = stockenh("evaluate", "run=run", *QUICK, code=0)
    found = report_of(Path("run/report"))
    of = found["horizons"]["h5"]
    assert of["limit_accuracy"] > 0.7 and of["forecasts"]["best possible"]["accuracy"] > 0.7
    assert of["forecasts"]["model"]["gap_closed"] is not None and found["implausible"] == []
    assert "the limit is" in answer.out and "best possible" in answer.out


def test_the_folds_of_a_walk_forward_are_evaluated_as_one(stockenh, small_run, four, here):
    walk = [w for w in recipe_of(small_run, four) if not w.startswith("split.test")]
    walk += ["split=walk_forward", "split.folds=3", "data.horizons=[1,3]"]
    stockenh("train", *walk, "split.fold=0,1,2", "--multirun", "hydra.sweep.dir=sweep (1)", code=0)
    answer = stockenh("evaluate", "run=sweep (1)", *QUICK, code=0)
    found = report_of(Path("sweep (1)/report"))
    assert found["part"] == "test parts of 3 folds" and len(found["folds"]) == 3
    pooled, *of_folds = (one["horizons"]["h3"] for one in (found, *found["folds"]))
    right, *right_of_folds = (
        of["forecasts"]["model"]["accuracy"] * (of["n"] - of["ties"]) for of in (pooled, *of_folds)
    )
    assert sum(right_of_folds) == pytest.approx(right) and sum(of["n"] for of in of_folds) == pooled["n"]
    begins = [fold["from"] for fold in found["folds"]]
    assert begins == sorted(begins) and found["from"] == begins[0]
    for number, fold in enumerate(found["folds"]):
        summary = json.loads(Path(f"sweep (1)/{number}/summary.json").read_text())
        accuracy = summary["parts"]["test"]["h1"]["accuracy"]
        assert fold["horizons"]["h1"]["forecasts"]["model"]["accuracy"] == pytest.approx(accuracy)
    assert "Each fold" in answer.out
    stockenh("evaluate", "run=[sweep (1)/0,sweep (1)/2]", *QUICK, "hydra.run.dir=two", code=0)
    assert [fold["from"] for fold in report_of(Path("two"))["folds"]] == [begins[0], begins[2]]
    again = stockenh("evaluate", "run=[sweep (1)/0,sweep (1)/0]", "hydra.run.dir=twice", code=2)
    assert "is named twice" in again.err
    stockenh("train", *walk, "split.fold=1", "model.ffn=8", "hydra.run.dir=wider", code=0)
    other = stockenh("evaluate", "run=[sweep (1)/0,wider]", "hydra.run.dir=other", code=2)
    assert "has another model than" in other.err


def test_moved_and_changed_bars(stockenh, refused, small_run, four, here):
    mine, moved = shutil.copytree(four, here / "mine"), here / "moved"
    stockenh("train", *recipe_of(small_run, mine), "hydra.run.dir=run", code=0)
    stockenh("evaluate", "run=run", *QUICK, code=0)
    before = report_of(Path("run/report"))
    shutil.move(mine, moved)
    assert "have moved, name their folder: data.path=DIR" in refused("evaluate", "run=run")
    given = ("evaluate", "run=run", f"data.path={moved}", *QUICK)
    stockenh(*given, code=0)
    assert report_of(Path("run/report")) == before
    # other bars without the run's own need a date, and have no fitted baseline
    write_bars(moved / "S0.csv", seed=77, bars=330)
    assert "set the first date to evaluate with evaluate.from=DATE" in refused(*given)
    answer = stockenh(*given, "evaluate.from=2020-12-01", code=0)
    assert report_of(Path("run/report"))["baselines"] == ["majority", "persistence", "momentum"]
    assert "whether it has seen these dates is not known" in " ".join(answer.out.split())
    # the same place with other bars in it
    shutil.copytree(moved, mine)
    err = refused("evaluate", "run=run")
    assert "the bars are no longer those that" in err and "data.path=DIR" in err


def test_other_bars_are_evaluated_after_all_that_the_run_has_seen(run, four, stockenh, here):
    other = shutil.copytree(four, here / "other")
    for number in range(3):
        write_bars(other / f"S{number}.csv", seed=50 + number, bars=380)
    (other / "S3.csv").unlink()
    given = ("evaluate", f"run={run}", "data=files", f"data.path={other}", *QUICK)
    stockenh(*given, "hydra.run.dir=after", code=0)
    found = report_of(Path("after"))
    seen = re.fullmatch(r"other bars after (\S+)", found["part"])[1]
    assert found["from"] > seen and found["to"] > "2021-05" and not found["is_test"]
    assert seen <= dates_of_test(run)[0]
    assert found["symbols"] == 3 and found["warnings"] == []
    early = stockenh(*given, "evaluate.from=2020-06-01", "hydra.run.dir=early", code=0)
    assert "until when labels trained or chose this model" in early.out
    assert report_of(Path("early"))["from"] == "2020-06-01"
    none = stockenh(*given, "evaluate.from=2031-01-01", "hydra.run.dir=none", code=2)
    assert "no labelled window ends evaluate.from=2031-01-01" in none.err


def test_a_run_that_held_nothing_out_needs_other_bars(small_run, stockenh, here, four):
    kept = [word for word in recipe_of(small_run, four) if not word.startswith("split.")]
    stockenh("train", *kept, "split=all", "hydra.run.dir=run", code=0)
    answer = stockenh("evaluate", "run=run", code=2)
    assert "held nothing out (split=all)" in answer.err
    later = shutil.copytree(four, here / "later")
    for number in range(4):
        write_bars(later / f"S{number}.csv", seed=number + 9, bars=400)
    answer = stockenh("evaluate", "run=run", f"data.path={later}", *QUICK, code=0)
    found = report_of(Path("run/report"))
    assert found["own"] == ["model"] and "calibrated" not in found["horizons"]["h3"]["forecasts"]
    assert found["curve"]["forecast"] == "model" and found["from"] > "2021-02"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=[{run},nowhere]"], "nowhere: no such folder"),
        (["run={run}", "split.test=0.4"], "split.test comes from run=RUN"),
        (["run={run}", "evaluate.block=9"], "evaluate.block=9 must be at least the largest of data.horizons"),
        (["run={run}", "evaluate.resamples=5"], "evaluate.resamples=5 must be at least 100"),
        (["run={run}", "evaluate.cost_bps=-1"], "evaluate.cost_bps=-1 must be at least 0"),
        (["run={run}", "evaluate.execution=vwap"], "evaluate.execution=vwap"),
        (["run={run}", "evaluate.horizon=4"], "evaluate.horizon=4: the run has [3, 5, 10]"),
        (["run={run}", "evaluate.from=soon"], "evaluate.from=soon is not a date: write 2024-01-31"),
        (["run={run}", "evaluate.from=2021-02-01", "evaluate.to=2021-01-01"], "lies after evaluate.to"),
        (["run={run}", "evaluate.since=2021-01-01"], "evaluate.since: no such"),
        (["run={run}", "evaluate.from=2031-01-01"], "the test part has no window in there"),
        (["run={run}", "evaluate.cost=1"], "evaluate.cost_bps"),
    ],
)
def test_bad_input_is_one_clear_line(run, refused, arguments, message):
    assert message in refused("evaluate", *(argument.format(run=run) for argument in arguments))


def test_without_lightgbm_the_rest_stays(run, stockenh, monkeypatch):
    monkeypatch.setattr("stockenh.commands.evaluate.rows.has_lightgbm", lambda: False)
    answer = stockenh("evaluate", f"run={run}", *QUICK, "hydra.run.dir=mine", code=0)
    assert "LightGBM: pip install 'stockenh[gbm]'" in answer.out
    assert "lightgbm" not in report_of(Path("mine"))["baselines"]
