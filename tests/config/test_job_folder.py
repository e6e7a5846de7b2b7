"""When a job's folder is made: not before the config is right, and never where there is nothing to write."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("here")
BAD = "train.epochs=0"


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "more",
    [[BAD], ["data=files", "data.path=nowhere"], [BAD, "hydra.run.dir=a/b c"], [BAD, "seed=1,2", "-m"]],
)
@pytest.mark.parametrize("command", ["train", "find-lr"])
def test_a_refused_command_leaves_nothing(stockenh, tmp_path, command, more):
    stockenh(command, *more, code=2)
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("file", "file is no folder"),
        ("file/run", "file is no folder"),
        ("bars", "is the folder of the bars"),
        ("./bars/", "is the folder of the bars"),
    ],
)
def test_a_folder_that_can_not_be_the_jobs_is_refused_first(stockenh, tmp_path, where, message):
    (tmp_path / "file").touch()
    (tmp_path / "bars").mkdir()
    answer = stockenh("train", "data=files", "data.path=bars", f"hydra.run.dir={where}", code=2)
    assert message in answer.err and answer.out == "" and len(answer.err.splitlines()) == 1
    assert everything(tmp_path) == ["bars", "file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_first(stockenh, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    answer = stockenh("train", "hydra.run.dir=closed/run", code=2)
    assert "no permission to write there; name another folder, hydra.run.dir=DIR" in answer.err
    assert answer.out == ""


def test_existing_folders_stay(stockenh, tmp_path):
    for name in ("outputs/2020-01-01", "mine", "full"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full/notes.txt").write_text("mine")
    before = everything(tmp_path)
    for where in ([], ["hydra.run.dir=mine"], ["hydra.run.dir=mine/deeper"], ["hydra.run.dir=full"]):
        stockenh("train", BAD, *where, code=2)
        assert everything(tmp_path) == before


def test_commands_that_are_refused_leave_the_run_as_it_was(stockenh, finished_run, tmp_path):
    shutil.copytree(finished_run, "run")
    before = everything(tmp_path)
    for command, *more in (
        ("tta-predict", "run=run", "tta.views=-1"),
        ("export", "run=run", "export.int8=much"),
        ("explain", "run=run", "explain.windows=0"),
        ("distill", "teacher=run", "distill.temperature=0"),
    ):
        stockenh(command, *more, code=2)
        assert everything(tmp_path) == before, command
    # the jobs of a grid are announced by what the user wrote
    for command, key in (("tta-predict", "run"), ("distill", "teacher")):
        answer = stockenh(command, f"{key}=run", "-m", "tta.views=-1,-2", "hydra.sweep.dir=grid", code=2)
        lines = [line.split("#")[1] for line in answer.out.splitlines() if "\t#" in line]
        assert lines == [f"{n} : {key}='run' tta.views={-1 - n}" for n in (0, 1)]


def test_a_job_leaves_what_hydra_would(stockenh, small_run):
    stockenh("train", *small_run, "seed=7", "hydra.run.dir=run", code=0)
    stockenh("tta-predict", "run=run", "hydra.run.dir=forecast", code=0)
    for folder, override in (("run", "seed=7"), ("forecast", "run='run'")):
        about = Path(folder) / ".hydra"
        assert override in yaml.safe_load((about / "overrides.yaml").read_text())
        assert yaml.safe_load((about / "config.yaml").read_text())["device"] in ("auto", "cpu")
        assert "hydra" in yaml.safe_load((about / "hydra.yaml").read_text())
        assert (Path(folder) / "run.log").is_file()
    assert "epoch 1" in Path("run/run.log").read_text()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("train.epochs=0,1", "train.epochs=0 must be at least 1"),
        ("model.heads=3,2", "model.d_model=16 is not divisible by model.heads=3"),
    ],
)
def test_in_a_grid_the_good_jobs_go_on(stockenh, small_run, choices, message):
    kept = [word for word in small_run if word.partition("=")[0] != choices.partition("=")[0]]
    answer = stockenh("train", "-m", *kept, choices, "hydra.sweep.dir=grid", code=2)
    lines = answer.err.splitlines()
    assert lines[0].startswith(f"stockenh: job 0: {message}")
    assert lines[-1].startswith("stockenh: job 0 failed") and "Traceback" not in answer.err
    assert message in Path("grid/0/run.log").read_text()
    assert [path.parent.name for path in Path("grid").glob("*/summary.json")] == ["1"]


def test_a_bug_in_a_grid_is_a_line_and_the_log_has_the_rest(stockenh, small_run, monkeypatch):
    from stockenh.commands import train as training

    def broken(*arguments, **more):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(training, "device_of", broken)
    answer = stockenh("train", "-m", *small_run, "seed=1,2", "hydra.sweep.dir=grid", code=1)
    log = Path("grid/0/run.log").absolute()
    first = answer.err.splitlines()[0]
    assert first == f"stockenh: job 0: ZeroDivisionError: division by zero; more in {log}"
    assert "Traceback" not in answer.err and "Traceback" in log.read_text()
