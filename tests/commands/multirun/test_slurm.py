"""Searches whose workers are jobs of a real Slurm cluster: neither a stop nor preemption loses anything."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from processes import Hold, Process, start
from slurm import Cluster, why_not
from waiting import wait_for

from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import open_storage

pytestmark = pytest.mark.deep

EPOCHS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if (why := why_not()) is not None:
        pytest.skip(why)
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("no launcher for Slurm: pip install 'stockenh[slurm]'")
    with Cluster() as started:
        yield started


def sweep(cluster: Cluster, hold: Hold, *arguments: str) -> Process:
    space = [
        "sweep=base",
        "sweep.enqueue_base=false",
        "model.dropout=0.1,0.2",
        f"train.epochs={EPOCHS}",
        "sweep.pruner=null",
    ]
    launcher = ["hydra/launcher=submitit_slurm"]
    return start("sweep", *arguments, *space, *launcher, hold=hold, **cluster.environment)


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="stockenh", storage=open_storage(SweepConfig(), folder))
    return study.get_trials()


def require_whole(folder: Path, number: int) -> None:
    """All trials are complete, each with every epoch once."""
    trials = trials_of(folder)
    assert [t.state.name for t in trials] == ["COMPLETE"] * number
    for trial in trials:
        lines = (folder / str(trial.number) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))


@pytest.mark.deep
def test_a_stop_of_the_command_reaches_its_jobs(cluster, small_run, stockenh, tmp_path):
    folder, hold = tmp_path / "stopped", Hold(tmp_path / "hold", epochs=1)
    size = ["sweep.n_trials=3", "sweep.n_workers=2", f"hydra.sweep.dir={folder}"]
    going = sweep(cluster, hold, *small_run, *size)
    hold.wait_for(going, number=2)
    going.send_signal(signal.SIGINT)
    wait_for((folder / "stop").is_file, going)
    hold.release()
    _, err = going.communicate()
    assert going.returncode == 130, err
    assert "2 trials saved and given back" in err and "lost" not in err
    assert f"sweep resume={folder}" in err and "hydra/launcher=submitit_slurm" in err
    assert [t.state.name for t in trials_of(folder)] == ["WAITING"] * 3
    wait_for(lambda: not cluster.jobs())
    stockenh("sweep", f"resume={folder}", "hydra/launcher=basic", code=0)
    assert not (folder / "stop").exists()
    require_whole(folder, 3)


@pytest.mark.deep
def test_a_preempted_job_saves_its_trial_is_requeued_and_goes_on(cluster, small_run, tmp_path):
    folder, hold = tmp_path / "preempted", Hold(tmp_path / "hold", epochs=1)
    going = sweep(cluster, hold, *small_run, "sweep.n_trials=1", f"hydra.sweep.dir={folder}")
    hold.wait_for(going)
    (job,) = cluster.jobs()
    cluster.run("scancel", "--signal=USR2", job)
    wait_for(lambda: cluster.restarts(job) == 1, going)
    hold.release()
    cluster.hasten(job)
    out, err = going.communicate()
    assert going.returncode == 0, out + err
    require_whole(folder, 1)
