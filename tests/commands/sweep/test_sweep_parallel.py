"""Searches by more than one process: Hydra's launchers, and two searches on one PostgreSQL study."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from processes import Hold, start
from waiting import wait_for

from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import open_storage

pytestmark = pytest.mark.slow

SPACE = ["model.patch=5,10", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]


def trials_of(folder: Path, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(SweepConfig(storage=url), folder)
    trials = optuna.load_study(study_name="stockenh", storage=storage).get_trials()
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
    return trials


@pytest.mark.slow
@pytest.mark.deep
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_the_workers(small_run, tmp_path, launcher):
    folder = tmp_path / launcher
    going = start(
        "sweep", *small_run, "sweep=base", *SPACE, "sweep.n_trials=4", "sweep.n_workers=2",
        f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}",
    )  # fmt: skip
    out, err = going.communicate()
    assert going.returncode == 0, out + err
    trials = trials_of(folder)
    assert len(trials) == 4
    assert {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"}
    assert all((folder / str(n) / "summary.json").exists() for n in range(4))
    assert (folder / "best.yaml").exists()


@pytest.mark.parametrize(
    ("launcher", "is_signal"),  # or a file that a person makes
    [
        ("basic", True),
        *(pytest.param(*case, marks=pytest.mark.deep) for case in (
            ("basic", False), ("joblib", True), ("joblib", False), ("submitit_local", True),
            ("submitit_local", False),
        )),
    ],
)
def test_a_stop_reaches_the_workers_of_a_launcher(small_run, tmp_path, launcher, is_signal):
    folder, hold = tmp_path / launcher, Hold(tmp_path / "hold", epochs=1)
    going = start(
        "sweep", *small_run, "sweep=base", *SPACE, "train.epochs=6", "sweep.n_trials=3", "sweep.n_workers=2",
        f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}", hold=hold,
    )  # fmt: skip
    hold.wait_for(going, number=2)
    if is_signal:
        going.send_signal(signal.SIGINT)
        wait_for((folder / "stop").is_file)
    else:
        (folder / "stop").touch()
    hold.release()
    _, err = going.communicate()
    assert going.returncode == 130, err
    assert "stopped; 2 trials saved and given back. Continue with: " in err
    assert [t.state.name for t in trials_of(folder)] == ["WAITING"] * 3
    done = [len(path.read_text().splitlines()) for path in folder.glob("*/metrics.jsonl")]
    assert len(done) == 2 and min(done) >= 1 and max(done) < 6


def test_a_stop_reaches_the_jobs_of_a_grid(small_run, tmp_path):
    folder, hold = tmp_path / "grid", Hold(tmp_path / "hold", "last.pt", epochs=1)
    going = start(
        "train", "--multirun", *small_run, "train.epochs=6", "seed=1,2", "hydra/launcher=joblib",
        "train.checkpoint_minutes=1e-9", f"hydra.sweep.dir={folder}", hold=hold,
    )  # fmt: skip
    hold.wait_for(going, number=2)
    going.send_signal(signal.SIGINT)
    wait_for((folder / "stop").is_file)
    hold.release()
    out, err = going.communicate()
    assert going.returncode == 130, out + err
    assert "stopped; 2 runs saved. Continue each with: " in err and f"train resume={folder}/N" in err
    assert all((folder / str(n) / "checkpoints" / "last.pt").is_file() for n in range(2))
    assert not list(folder.glob("*/summary.json"))


def _programs() -> Path | None:
    """The folder of PostgreSQL's own programs, where Debian or another packager puts them."""
    if found := shutil.which("pg_ctl"):
        return Path(os.path.realpath(found)).parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def _account() -> str | None:
    """PostgreSQL refuses to run as root: somebody else then, where there is one."""
    if os.geteuid() != 0:
        return None
    names = [entry.pw_name for entry in pwd.getpwall()]
    return next(name for name in ("postgres", "nobody") if name in names)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server that this test started, on a socket in a folder of its own."""
    programs = _programs()
    if programs is None or not (programs / "initdb").exists():
        pytest.skip("no PostgreSQL server is installed here (Debian: apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL driver: pip install 'stockenh[postgresql]'")
    folder, user = Path(tempfile.mkdtemp(prefix="pg")), _account()
    if user is not None:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, *arguments], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    run("initdb", "-D", str(data), "-U", "tester", "--auth=trust", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(log), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://tester@/postgres?host={folder}"
    finally:
        run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.deep
def test_two_searches_share_a_postgresql_study(postgresql, small_run, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    began = Hold(tmp_path / "hold")
    both = [
        start(
            "sweep", *small_run, "sweep=base", *SPACE, "train.epochs=5", "sweep.n_trials=8",
            f"sweep.storage='{postgresql}'", f"hydra.sweep.dir={folder}", hold=began,
        )
        for folder in folders
    ]  # fmt: skip
    began.wait_for(*both, number=2)  # a trial each
    began.release()
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trials = trials_of(folders[0], postgresql)
    assert [t.number for t in trials] == list(range(8))
    assert all(t.state.is_finished() and t.state.name != "FAIL" for t in trials)
    ran = [{int(p.parent.name) for p in folder.glob("[0-9]*/summary.json")} for folder in folders]
    assert ran[0] & ran[1] == set()
    assert ran[0] | ran[1] == set(range(8))
    assert ran[0] and ran[1]


@pytest.mark.deep
def test_many_workers_run_each_trial_of_a_postgresql_study_once(postgresql, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "tools"))
    overhead = importlib.import_module("study_overhead")
    settings = SweepConfig(n_trials=40, storage=postgresql, study="many", sampler={"name": "RandomSampler"})
    found = overhead.measure(settings, tmp_path, 4)
    assert overhead.is_right(found), found
    assert found["stored"] == sum(found["trials_of_each"]) == 40
