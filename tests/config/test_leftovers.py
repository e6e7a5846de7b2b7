"""A refused command leaves no folder behind, and takes none away that was there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stockenh.config.leftovers import Folders

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


def test_what_was_there_stays(stockenh: Callable[..., object], tmp_path: Path) -> None:
    for name in ("outputs/2020-01-01", "mine", "full"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full/notes.txt").write_text("mine")
    before = everything(tmp_path)
    for where in ([], ["hydra.run.dir=mine"], ["hydra.run.dir=mine/deeper"]):
        assert stockenh("train", BAD, *where).code == 2
        assert everything(tmp_path) == before
    assert stockenh("train", BAD, "hydra.run.dir=full").code == 2
    assert (tmp_path / "full/notes.txt").read_text() == "mine" and (tmp_path / "full/run.log").is_file()


def test_an_earlier_run_s_folder_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    earlier = tmp_path / "outputs/2024-01-31/12-00-00-000000"
    (earlier / ".hydra").mkdir(parents=True)
    (earlier / "run.log").write_text("refused")
    folders = Folders(["hydra.run.dir=outputs/2024-01-31/12-00-00-000000"])
    folders.take_away(earlier)
    assert (earlier / "run.log").is_file()
    by_time = Folders(["hydra.run.dir=${now:%Y}/x"])
    (tmp_path / "2024/x/.hydra").mkdir(parents=True)
    by_time.take_away(tmp_path / "2024/x")
    assert (tmp_path / "2024/x").is_dir()


def test_what_has_learnt_something_stays() -> None:
    folders = Folders(["hydra.run.dir=new"])
    run = Path("new").absolute()
    (run / ".hydra").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    folders.take_away(run)
    assert everything(run) == [".hydra", "manifest.json"]
    (run / "manifest.json").unlink()
    folders.take_away(run)
    assert not run.exists()


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


def test_in_a_grid_the_good_jobs_go_on_and_the_refused_leave_nothing(
    stockenh: Callable[..., object], small_run: list[str], tmp_path: Path
) -> None:
    good = [a for a in small_run if not a.startswith("train.epochs")]
    answer = stockenh("train", "-m", *good, "train.epochs=0,1", "hydra.sweep.dir=grid")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        "stockenh: job 0: train.epochs=0 must be at least 1",
        "stockenh: job 0 failed; the folders of those that did not stay",
    ]
    assert sorted(path.name for path in Path("grid").iterdir()) == ["1", "multirun.yaml"]
    assert json.loads(Path("grid/1/summary.json").read_text())["epochs"] == 1


def test_a_bug_in_a_grid_is_one_line_and_the_log_has_the_rest(
    stockenh: Callable[..., object], small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stockenh.commands.train import command as training

    def broken(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(training, "train_in", broken)
    answer = stockenh("train", "-m", *small_run, "seed=1,2", "hydra.sweep.dir=grid")
    assert answer.code == 1
    log = Path("grid/0/run.log").absolute()
    assert (
        answer.err.splitlines()[0] == f"stockenh: job 0: ZeroDivisionError: division by zero; more in {log}"
    )
    assert len(answer.err.splitlines()) == 3 and "Traceback" in log.read_text()


def test_the_jobs_of_a_grid_are_told_by_what_the_user_wrote(
    stockenh: Callable[..., object], small_run: list[str]
) -> None:
    assert stockenh("train", *small_run, "hydra.run.dir=run").code == 0
    grid = ["-m", "tta.views=-1,-2", "hydra.sweep.dir=grid"]
    for command, run in (("tta-predict", "run=run"), ("distill", "teacher=run")):
        answer = stockenh(command, run, *grid)
        assert answer.code == 2
        lines = [line.split("#")[1] for line in answer.out.splitlines() if "\t#" in line]
        student = "model=student " if command == "distill" else ""
        key = run.partition("=")[0]
        assert lines == [f"{n} : {student}{key}='run' tta.views={-1 - n}" for n in (0, 1)]
