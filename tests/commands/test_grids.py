"""Grids: a table at their end, the folder that they are given, and what evaluate says of folders of runs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("here")


def test_a_grid_ends_with_a_table_of_its_runs_the_failed_ones_too(stockenh, small_run, refused):
    answer = stockenh("train", *small_run, "seed=1,2,-1", "-m", "hydra.sweep.dir=grid", code=2)
    table = answer.out.rpartition("\n\n")[2].splitlines()
    assert "seed" in table[0] and "val loss" in table[0]
    assert [line.split()[:2] for line in table[2:5]] == [["0", "finished"], ["1", "finished"], ["2", "never"]]
    assert table[-1] == f"grid     {Path('grid').absolute()}"
    line = refused("evaluate", "run=grid")
    assert "1 of 3 runs failed or stopped (2;" in line and "run=[RUN,RUN]" in line


def copies(run, *changes, folder="outputs/2026-01-01", grid=False):
    """Copies of a run below one folder, each with another value of a key of its config."""
    for number, (node, key, value) in enumerate(changes):
        copy = shutil.copytree(run, Path(folder) / str(number))
        config = yaml.safe_load((copy / "config.yaml").read_text())
        (config[node] if node else config)[key] = value
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
    if grid:
        (Path(folder) / "multirun.yaml").touch()


@pytest.mark.parametrize("named", ["outputs/2026-01-01", "outputs/2026-01-01/"])
def test_a_folder_of_other_runs_is_no_grid_of_folds(finished_run, refused, named):
    copies(finished_run, ("train", "epochs", 2), ("train", "epochs", 3))
    line = refused("evaluate", f"run={named}")
    assert "holds 2 runs that are no folds of one split" in line and "run=outputs/2026-01-01/1" in line


def test_a_folder_of_folders_of_runs_names_one_of_them(finished_run, refused):
    copies(finished_run, ("train", "epochs", 2), ("train", "epochs", 3))
    assert "has 2 runs in its folders: name one" in refused("evaluate", "run=outputs")


def test_runs_that_differ_in_their_seed_are_one_forecaster(finished_run, stockenh):
    copies(finished_run, (None, "seed", 1), (None, "seed", 2))
    assert "no folds" not in stockenh("evaluate", "run=outputs/2026-01-01", "evaluate.resamples=0").err


def test_an_unfinished_run_of_a_grid_is_named(finished_run, refused):
    copies(finished_run, ("train", "epochs", 2), ("train", "epochs", 3), grid=True)
    Path("outputs/2026-01-01/1/summary.json").unlink()
    assert "1 of 2 runs failed or stopped (1;" in refused("evaluate", "run=outputs/2026-01-01")


@pytest.mark.parametrize("command", ["ablate", "sweep"])
def test_the_folder_of_many_runs_is_another_key(refused, command):
    assert "hydra.sweep.dir=x" in refused(command, "hydra.run.dir=x")


@pytest.mark.parametrize(("width", "larger"), [(32, True), (8, False)])
def test_a_student_larger_than_its_teacher_is_warned_of(finished_run, stockenh, width, larger):
    shape = ["model=student", f"model.d_model={width}", "model.layers=1", "model.heads=2", "model.ffn=8"]
    small = ["model.head_hidden=8", "model.embedding_tokens=2", "model.conv_dilations=[]"]
    answer = stockenh(
        "distill", f"teacher={finished_run}", *shape, *([] if larger else small), "train.epochs=1",
        "device=cpu", "hydra.run.dir=student", code=0,
    )  # fmt: skip
    assert ("warning  the student is larger than its teacher" in answer.out) == larger
    assert json.loads(Path("student/summary.json").read_text())["epochs"] == 1
