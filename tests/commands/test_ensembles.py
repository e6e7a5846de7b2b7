"""run=[RUN,RUN] as one forecaster, and train.members: an ensemble in one run folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import processes
import pytest
import torch
from scipy.special import expit, logit

from stockenh.commands.ensembles import NAME, TrainedEnsemble, opened
from stockenh.commands.runs.listing import read
from stockenh.config import build
from stockenh.errors import ConfigError, RunFolderError
from stockenh.inference.predict import forecast, predict

pytestmark = pytest.mark.slow

FEW = {
    "explain": ["explain.windows=4"],
    "audit": ["audit.shuffles=2", "audit.dates=1", "audit.epochs=1"],
}


@pytest.fixture(scope="module")
def ensemble(small_run, tmp_path_factory) -> Path:
    """A finished run of two members."""
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    done = processes.run("train", *small_run, "train.members=2", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def members(ensemble) -> list[Path]:
    return [ensemble / "members" / seed for seed in ("42", "43")]


def listed(folders: list[Path]) -> str:
    return f"[{','.join(map(str, folders))}]"


def forecast_file(stockenh, folder: Path, *arguments: str) -> pl.DataFrame:
    stockenh("tta-predict", *arguments, f"hydra.run.dir={folder}", code=0)
    return pl.read_parquet(folder / "forecast.parquet")


def test_members_are_the_runs_of_their_seeds(ensemble, members, small_run, stockenh, tmp_path):
    stockenh("train", *small_run, "seed=43", f"hydra.run.dir={tmp_path}/alone", code=0)
    weights = "weights/raw.safetensors"
    assert (members[1] / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()
    summary = json.loads((ensemble / "summary.json").read_text())
    assert [member["seed"] for member in summary["members"]] == [42, 43] and summary["weights"] == NAME
    assert summary["parts"]["test"]["h3"]["n"] > 0 and "log_loss_calibrated" in summary["parts"]["test"]["h3"]


def test_a_forecast_is_the_mean_and_its_uncertainty_the_spread(ensemble, members, stockenh, tmp_path):
    one, two = (
        forecast_file(stockenh, tmp_path / str(i), f"run={run}", "tta.views=0")
        for i, run in enumerate(members)
    )
    both = forecast_file(stockenh, tmp_path / "both", f"run={listed(members)}", "tta.views=0")
    np.testing.assert_allclose(both["ret"], (one["ret"] + two["ret"]) / 2, rtol=1e-5, atol=1e-9)
    probs = np.stack([one["up_prob"], two["up_prob"]])
    np.testing.assert_allclose(both["up_prob"], expit(logit(probs).mean(0)), atol=1e-6)
    np.testing.assert_allclose(both["uncertainty"], probs.std(0), atol=1e-6)
    # the folder of both calibrates their mean once more, which moves no return
    whole = forecast_file(stockenh, tmp_path / "whole", f"run={ensemble}", "tta.views=0")
    assert whole["ret"].equals(both["ret"]) and whole["uncertainty"].equals(both["uncertainty"])


def test_views_and_members_together(ensemble, stockenh, tmp_path):
    found = forecast_file(stockenh, tmp_path / "out", f"run={ensemble}", "tta.views=2")
    assert (found["uncertainty"] > 0).all()


def test_evaluate_takes_runs_with_one_test_part_as_one(ensemble, members, stockenh, tmp_path):
    out = stockenh("evaluate", f"run={listed(members)}", f"hydra.run.dir={tmp_path}", code=0).out
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["members"] == 2 and len(found["runs"]) == 1 and "spread" in found["coverage"] and out
    stockenh("evaluate", f"run={ensemble}", code=0)
    whole = json.loads((ensemble / "report/evaluation.json").read_text())
    of_train = json.loads((ensemble / "summary.json").read_text())["parts"]["test"]["h3"]
    model = whole["horizons"]["h3"]["forecasts"]["model"]
    assert model["accuracy"] == pytest.approx(of_train["accuracy"])
    assert model["log_loss"] == pytest.approx(found["horizons"]["h3"]["forecasts"]["model"]["log_loss"])


def test_without_views_the_spread_is_that_of_the_forecast(ensemble):
    """`evaluate` and `tta-predict` compute it each in its own way."""
    trained, device = opened(str(ensemble), None), torch.device("cpu")
    prepared = build.data(trained.run, device)
    ready, fitted = trained.ready(prepared, device)
    rows, net = prepared.rows["test"], trained.net(prepared, device)
    views = replace(build.views(trained.run), count=0)
    by_views = forecast(net, ready, rows, fitted, trained.calibration, views)
    np.testing.assert_array_equal(predict(net, ready, rows, fitted).spread, by_views.uncertainty)


@pytest.mark.parametrize("command", ["explain", "audit"])
def test_every_command_takes_a_list_and_leaves_the_runs_alone(command, members, stockenh, tmp_path, here):
    before = {path for run in members for path in run.rglob("*")}
    few = FEW.get(command, [])
    stockenh(command, f"run={listed(members)}", *few, f"hydra.run.dir={tmp_path}/out", code=0)
    assert before == {path for run in members for path in run.rglob("*")}


def test_an_export_forecasts_as_the_ensemble_does(ensemble, members, stockenh, refused, tmp_path):
    stockenh("export", f"run={ensemble}", code=0)
    own = forecast_file(stockenh, tmp_path / "own", f"run={ensemble}", "tta.views=1")
    file = forecast_file(stockenh, tmp_path / "file", f"run={ensemble}", "tta.views=1", "tta.engine=onnx")
    for column in ("ret", "up_prob", "uncertainty"):
        np.testing.assert_allclose(own[column], file[column], atol=1e-5)
    error = refused(
        "tta-predict", f"run={listed(members)}", "tta.engine=onnx", f"hydra.run.dir={tmp_path}/no", code=2
    )
    assert "train.members" in error


def test_a_student_learns_from_the_mean(members, stockenh, tmp_path):
    student = tmp_path / "student"
    model = ["model=timeformer", "model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8"]
    stockenh(
        "distill", f"teacher={listed(members)}", *model, "train.epochs=1", f"hydra.run.dir={student}", code=0
    )
    teacher = json.loads((student / "manifest.json").read_text())["teacher"]
    assert teacher["run"] == listed(members) and teacher["weights"] == NAME and len(teacher["members"]) == 2
    assert "teacher" in json.loads((student / "distillation.json").read_text())["scores"]


@pytest.mark.deep
def test_members_of_an_ensemble_count_alike(ensemble, finished_run):
    once, more = opened(str(ensemble), None), opened(listed([ensemble, finished_run]), None)
    assert isinstance(once, TrainedEnsemble) and isinstance(more, TrainedEnsemble)
    assert (len(once.members), len(more.members)) == (2, 3)
    assert once.held_out and not more.held_out and once.to_dict()["sha256"] != more.to_dict()["sha256"]


def test_a_member_counts_once(ensemble, members):
    with pytest.raises(ConfigError, match="members/42 is named twice"):
        opened(listed([ensemble, members[0]]), None)


def test_a_killed_ensemble_goes_on_where_it_was(ensemble, stockenh, tmp_path):
    """Of three states that a kill leaves: a member that is done, one that has begun, none."""
    run = Path(shutil.copytree(ensemble, tmp_path / "run"))
    shutil.rmtree(run / "members/43")
    (run / "summary.json").unlink()
    assert read(run).state == "interrupted, 1 of 2 members done"
    kept = (run / "members/42/weights/raw.safetensors").stat().st_mtime_ns
    out = stockenh("train", f"resume={run}", code=0).out
    assert (run / "members/42/weights/raw.safetensors").stat().st_mtime_ns == kept and "seed 43" in out
    for file in ("weights/raw.safetensors", "metrics.jsonl"):
        if file.startswith("weights"):
            assert (run / "members/43" / file).read_bytes() == (ensemble / "members/43" / file).read_bytes()
    ours, theirs = (json.loads((path / "summary.json").read_text()) for path in (run, ensemble))
    assert ours["parts"] == theirs["parts"]
    assert "nothing to resume" in stockenh("train", f"resume={run}", code=0).out
    stockenh("train", f"resume={run}", "train.epochs=2", code=0)
    assert [one["epochs"] for one in json.loads((run / "summary.json").read_text())["members"]] == [2, 2]


def test_an_unfinished_ensemble_is_no_run_yet(ensemble, tmp_path):
    run = Path(shutil.copytree(ensemble, tmp_path / "run"))
    (run / "members/43/summary.json").unlink()
    with pytest.raises(RunFolderError, match="members/43 is not finished"):
        opened(str(run), None)


def test_a_calibration_of_other_members_is_not_taken(ensemble, members):
    """weights=NAME may be others than those that were calibrated together."""
    assert not opened(str(ensemble), "raw").held_out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "init_from={ensemble}"], ["is an ensemble", "members/42"]),
        (["sweep", "train.members=2"], ["train.members=2", "one network"]),
        (["ablate", "train.members=2"], ["train.members", "ablate.seeds"]),
        (["train", "train.members=0"], ["train.members"]),
        (["distill", "teacher={ensemble}", "train.members=2"], ["train.members=2", "student"]),
        (["evaluate", "run=[{ensemble},nowhere]"], ["nowhere: no such folder"]),
        (["tta-predict", "run=[]"], ["names no run"]),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_with_a_line(arguments, words, ensemble, small_run, refused, tmp_path):
    command, *rest = (text.format(ensemble=ensemble) for text in arguments)
    recipe = small_run if command in ("train", "sweep", "ablate") else []
    where = f"hydra.{'sweep' if command in ('sweep', 'ablate') else 'run'}.dir={tmp_path}/no"
    error = refused(command, *recipe, *rest, where)
    assert all(word in error for word in words), error
    assert not (tmp_path / "no").exists()


def test_runs_that_forecast_something_else_are_no_ensemble(members, small_run, stockenh, tmp_path):
    stockenh("train", *small_run, "data.horizons=[1,2]", f"hydra.run.dir={tmp_path}/other", code=0)
    with pytest.raises(ConfigError, match=r"data.horizons=\[3, 5, 10\]"):
        opened(listed([members[0], tmp_path / "other"]), None)
