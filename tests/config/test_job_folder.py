"""When a job's folder is made: not before the config is right, and never where there is nothing to write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

BAD = "train.epochs=0"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "more",
    [[BAD], ["data=files", "data.path=nowhere"], [BAD, "hydra.run.dir=a/b c"], [BAD, "seed=1,2", "-m"]],
)
@pytest.mark.parametrize("command", ["train", "find-lr"])
def test_a_refused_command_leaves_nothing(
    stockenh: Callable[..., object], tmp_path: Path, command: str, more: list[str]
) -> None:
    answer = stockenh(command, *more)
    assert answer.code == 2, answer.err
    assert everything(tmp_path) == []


def test_existing_folders_stay(stockenh: Callable[..., object], tmp_path: Path) -> None:
    for name in ("outputs/2020-01-01", "mine", "full"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full/notes.txt").write_text("mine")
    before = everything(tmp_path)
    for where in ([], ["hydra.run.dir=mine"], ["hydra.run.dir=mine/deeper"], ["hydra.run.dir=full"]):
        assert stockenh("train", BAD, *where).code == 2
        assert everything(tmp_path) == before


def test_commands_on_a_run_leave_it_as_it_was(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path
) -> None:
    assert stockenh("train", *small_run, "hydra.run.dir=run").code == 0
    before = everything(tmp_path)
    for command, *more in (
        ("tta-predict", "run=run", "tta.views=-1"),
        ("export", "run=run", "export.int8=much"),
        ("explain", "run=run", "explain.windows=0"),
        ("distill", "teacher=run", "distill.temperature=0"),
    ):
        assert stockenh(command, *more).code == 2
        assert everything(tmp_path) == before, command


def test_a_job_leaves_what_hydra_would(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path
) -> None:
    assert stockenh("train", *small_run, "seed=7", "hydra.run.dir=run").code == 0
    assert stockenh("tta-predict", "run=run", "hydra.run.dir=forecast").code == 0
    for folder, override in (("run", "seed=7"), ("forecast", "run='run'")):
        about = Path(folder) / ".hydra"
        assert override in yaml.safe_load((about / "overrides.yaml").read_text())
        assert yaml.safe_load((about / "config.yaml").read_text())["device"] in ("auto", "cpu")
        assert "hydra" in yaml.safe_load((about / "hydra.yaml").read_text())
        assert (Path(folder) / "run.log").is_file()
    assert "epoch 1" in Path("run/run.log").read_text()


def test_in_a_grid_the_good_jobs_go_on(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path
) -> None:
    good = [a for a in small_run if not a.startswith("train.epochs")]
    answer = stockenh("train", "-m", *good, "train.epochs=0,1", "hydra.sweep.dir=grid")
    assert answer.code == 2
    lines = answer.err.splitlines()
    assert lines[0] == "stockenh: job 0: train.epochs=0 must be at least 1"
    assert lines[-1].startswith("stockenh: job 0 failed")
    assert "train.epochs=0 must be at least 1" in Path("grid/0/run.log").read_text()
    assert json.loads(Path("grid/1/summary.json").read_text())["epochs"] == 1


def test_a_bug_in_a_grid_is_a_line_and_the_log_has_the_rest(
    stockenh: Callable[..., object], small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stockenh.commands import train as training

    def broken(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(training, "device_of", broken)
    answer = stockenh("train", "-m", *small_run, "seed=1,2", "hydra.sweep.dir=grid")
    assert answer.code == 1
    log = Path("grid/0/run.log").absolute()
    assert (
        answer.err.splitlines()[0] == f"stockenh: job 0: ZeroDivisionError: division by zero; more in {log}"
    )
    assert "Traceback" not in answer.err and "Traceback" in log.read_text()


def test_the_jobs_of_a_grid_are_announced_by_what_the_user_wrote(
    stockenh: Callable[..., object], small_run: list[str]
) -> None:
    assert stockenh("train", *small_run, "hydra.run.dir=run").code == 0
    grid = ["-m", "tta.views=-1,-2", "hydra.sweep.dir=grid"]
    for command, run in (("tta-predict", "run=run"), ("distill", "teacher=run")):
        answer = stockenh(command, run, *grid)
        assert answer.code == 2
        lines = [line.split("#")[1] for line in answer.out.splitlines() if "\t#" in line]
        key = run.partition("=")[0]
        assert lines == [f"{n} : {key}='run' tta.views={-1 - n}" for n in (0, 1)]
