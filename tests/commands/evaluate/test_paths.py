"""Paths of a combinatorial purged cross-validation: their assembly, their distribution, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from bars import write_bars

from stockenh.commands.evaluate import report as evaluate
from stockenh.commands.evaluate.paths import assembled, distribution
from stockenh.commands.evaluate.rows import forecast_rows
from stockenh.commands.trained import Trained
from stockenh.config.schema import EvaluateRunConfig, parse, to_dict
from stockenh.evaluation import baselines
from stockenh.report.terminal import console
from stockenh.storage.run_folder import RunFolder

QUICK = ["evaluate.resamples=100", "tta.views=0"]
SPLIT = ["split=cpcv", "split.groups=4", "split.val=0.3", "data.horizons=[1,3]"]


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """Four symbols of noise."""
    folder = tmp_path_factory.mktemp("four")
    for number in range(4):
        write_bars(folder / f"S{number}.csv", seed=number, bars=200)
    return folder


@pytest.fixture(scope="module")
def recipe(small_run, bars):
    kept = [word for word in small_run if not word.startswith(("data.path=", "split"))]
    return [*kept, f"data.path={bars}", *SPLIT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("combinations") / "sweep"


@pytest.fixture
def sweep(stockenh, recipe, folder):
    """All combinations, trained once."""
    if not folder.exists():
        every = ["split.combination=range(0,6)", "--multirun", f"hydra.sweep.dir={folder}"]
        stockenh("train", *recipe, *every, code=0)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(baselines, "ROUNDS", 5)
    monkeypatch.setattr(evaluate, "pictures", lambda *arguments: [])


def test_every_path_goes_through_all_dates_once_and_every_forecast_is_in_one(sweep):
    runs = [Trained.open(RunFolder.open(sweep / str(number)), None) for number in (3, 0, 5, 1, 4, 2)]
    config = parse(to_dict(runs[0].run), EvaluateRunConfig)
    selections = evaluate._select(config, runs, console())
    each = [
        forecast_rows(config, run, of_run, evaluate.build.device("cpu"), lambda done: None)
        for run, of_run in zip(runs, selections, strict=True)
    ]
    paths = assembled(runs, selections, each)
    windows = selections[0].prepared.windows
    everything = sorted(
        zip(windows.asof[windows.labelled].tolist(), windows.symbol[windows.labelled], strict=True)
    )
    names = np.array(windows.symbols)
    assert len(paths) == 3
    for path in paths:
        rows = zip(path.part.asof.tolist(), path.symbol, strict=True)
        assert sorted(rows) == [(asof, names[symbol]) for asof, symbol in everything]
    scores = np.concatenate([path.forecasts["model"][0].score for path in paths])
    of_runs = np.concatenate([of_run.forecasts["model"][0].score for of_run in each])
    np.testing.assert_array_equal(np.sort(scores), np.sort(of_runs))
    # group 0 is tested by the combinations 0, 1 and 2 (with 1, 2 and 3): a path each, in this order
    for number, path in enumerate(paths):
        (place,) = [k for k, run in enumerate(runs) if run.run.split.combination == number]
        first = each[place].part.asof.min()
        own = [of.forecasts["model"][0].score[of.part.asof == first] for of in (path, each[place])]
        np.testing.assert_array_equal(*own)


def test_the_report_has_the_distribution_over_paths(sweep, stockenh):
    answer = stockenh("evaluate", f"run={sweep}", *QUICK, code=0)
    found = json.loads((sweep / "report/evaluation.json").read_text())
    assert "3 paths of 6 combinations" in answer.out and found["folds"] is None
    assert found["part"] == "path 1 of 3 from 6 combinations"
    for horizon, figures in found["paths"].items():
        path, of = found["horizons"][horizon]["forecasts"], figures["rank_ic"]
        assert len(of["values"]) == 3 and of["min"] <= of["q25"] <= of["median"] <= of["q75"] <= of["max"]
        assert of["values"][0] == pytest.approx(path["model"]["rank_ic"]["mean"])
        for name in ("log_loss", "auc"):
            assert figures[name]["values"][0] == pytest.approx(path["calibrated"][name])
    assert "| 3 | rank IC |" in (sweep / "report/evaluation.md").read_text()


def test_a_single_combination_is_an_ordinary_test_part_and_the_audit_finds_no_leak(sweep, stockenh, here):
    stockenh("evaluate", f"run={sweep}/1", *QUICK, "hydra.run.dir=one", code=0)
    found = json.loads(Path("one/evaluation.json").read_text())
    assert found["part"] == "test part" and found["paths"] is None
    quick = ["audit.dates=2", "audit.shuffles=2", "hydra.run.dir=audit"]
    stockenh("audit", f"run={sweep}/1", *quick, code=0)
    checks = {check["name"]: check for check in json.loads(Path("audit/audit.json").read_text())["checks"]}
    assert checks["split"]["finding"] == "pass" and checks["random split"]["finding"] == "info"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((0, 1, 2, 4), "split.combination=3,5 missing"), ((0, 1, 2, 3, 4, 5, 5), "is named twice")],
)
def test_paths_take_every_combination_once(sweep, stockenh, here, numbers, words):
    runs = ",".join(f"{sweep}/{number}" for number in numbers)
    answer = stockenh("evaluate", f"run=[{runs}]", "hydra.run.dir=no", code=2)
    assert words in answer.err


def test_combinations_of_other_groups_make_no_paths(sweep, stockenh, recipe, here):
    stockenh("train", *recipe, "split.embargo=1", "hydra.run.dir=other", code=0)
    answer = stockenh("evaluate", f"run=[{sweep}/1,other]", "hydra.run.dir=no", code=2)
    assert "differ in split.groups" in answer.err


def test_a_distribution_by_hand():
    found = distribution([0.1, 0.3, 0.2, 0.4])
    assert found["mean"] == pytest.approx(0.25) and found["std"] == pytest.approx((0.05 / 3) ** 0.5)
    quartiles = [found[name] for name in ("min", "q25", "median", "q75", "max")]
    assert quartiles == pytest.approx([0.1, 0.175, 0.25, 0.325, 0.4])
    assert distribution([0.1])["std"] is None
    assert distribution([0.1, None])["mean"] is None
