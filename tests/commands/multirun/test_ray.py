"""Searches and grids on a real Ray cluster: neither a stop nor a machine that dies loses a job."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from processes import Hold, Process, run, start
from ray_nodes import SLOT, Nodes
from waiting import wait_for

from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import open_storage

pytestmark = pytest.mark.deep

EPOCHS = 3
RAY = "hydra/launcher=stockenh_ray"
SPACE = [
    "sweep=base", "sweep.enqueue_base=false", "model.dropout=0.1,0.2", "sweep.pruner=null",
    f"train.epochs={EPOCHS}", "train.checkpoint_minutes=1e-9",
]  # fmt: skip


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'stockenh[ray]'")
    with Nodes() as started:
        yield started


def on_cluster(nodes: Nodes, hold: Hold | None = None) -> list[str]:
    """The launcher's arguments; a hold reaches the cluster's processes by Ray's own environment."""
    arguments = [RAY, f"hydra.launcher.address='{nodes.address}'", f"hydra.launcher.resources={{{SLOT}: 1}}"]
    if hold is not None:
        values = ",".join(f"{key}:'{value}'" for key, value in hold.environment.items())
        arguments.append(f"hydra.launcher.runtime_env={{env_vars:{{{values}}}}}")
    return arguments


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


def begun(nodes: Nodes, small_run: list[str], folder: Path, trials: int) -> tuple[Process, Hold, list[int]]:
    """A search whose two workers wait in their second epoch, and these workers' process ids."""
    hold = Hold(folder.parent / "hold", epochs=1)
    size = [f"sweep.n_trials={trials}", "sweep.n_workers=2", f"hydra.sweep.dir={folder}"]
    going = start("sweep", *small_run, *SPACE, *size, *on_cluster(nodes, hold))
    return going, hold, hold.wait_for(going, number=2)


def resume(nodes: Nodes, hold: Hold, folder: Path) -> None:
    done = run("sweep", f"resume={folder}", *on_cluster(nodes, hold))
    assert done.returncode == 0, done.stdout + done.stderr


def test_trials_run_on_both_machines_and_a_stop_of_the_command_loses_none(nodes, small_run, tmp_path):
    folder = tmp_path / "stopped"
    going, hold, workers = begun(nodes, small_run, folder, trials=3)
    assert {nodes.of(pid) for pid in workers} == {nodes.first, nodes.second}
    going.send_signal(signal.SIGINT)
    wait_for((folder / "stop").is_file, going)
    hold.release()
    out, err = going.communicate()
    assert going.returncode == 130, out + err
    assert "2 trials saved and given back" in err and "lost" not in err and "ray::" not in out + err
    assert f"sweep resume={folder}" in err and RAY in err
    assert [t.state.name for t in trials_of(folder)] == ["WAITING"] * 3
    resume(nodes, hold, folder)
    require_whole(folder, 3)


def test_a_trial_on_a_machine_that_dies_goes_on_elsewhere(nodes, small_run, tmp_path):
    folder = tmp_path / "killed"
    going, hold, workers = begun(nodes, small_run, folder, trials=2)
    (lost,) = [pid for pid in workers if nodes.of(pid) == nodes.second]
    nodes.replace_second()
    hold.release()
    out, err = going.communicate()
    assert going.returncode == 0, out + err
    assert not psutil.pid_exists(lost)
    require_whole(folder, 2)
    assert sorted(t.user_attrs.get("deaths", 0) for t in trials_of(folder)) == [0, 1]


def test_trials_of_a_killed_command_go_on_when_it_is_resumed(nodes, small_run, tmp_path):
    folder = tmp_path / "dead"
    going, hold, workers = begun(nodes, small_run, folder, trials=2)
    going.kill()
    wait_for(lambda: not any(map(psutil.pid_exists, workers)))
    hold.release()
    resume(nodes, hold, folder)
    require_whole(folder, 2)


def test_a_stop_reaches_the_jobs_of_a_grid(nodes, small_run, tmp_path):
    folder, hold = tmp_path / "grid", Hold(tmp_path / "hold", "last.pt", epochs=1)
    going = start(
        "train", "--multirun", *small_run, "train.epochs=6", "seed=1,2", "train.checkpoint_minutes=1e-9",
        *on_cluster(nodes, hold), f"hydra.sweep.dir={folder}",
    )  # fmt: skip
    hold.wait_for(going, number=2)
    going.send_signal(signal.SIGTERM)
    wait_for((folder / "stop").is_file, going)
    hold.release()
    out, err = going.communicate()
    assert going.returncode == 130, out + err
    assert "stopped; 2 runs saved. Continue each with: " in err
    assert "epoch" in (folder / "workers" / "0.log").read_text()


def test_jobs_of_a_grid_run_on_a_cluster_of_this_machine_alone(small_run, bars_folder, tmp_path):
    """The paths are relative to the command's folder."""
    pytest.importorskip("ray")
    short = [word if not word.startswith("data.path") else "data.path=bars" for word in small_run]
    (tmp_path / "bars").symlink_to(bars_folder)
    words = ["--multirun", *short, "seed=1,2", RAY, "hydra.launcher.num_cpus=0.5", "hydra.sweep.dir=grid"]
    going = start("train", *words, cwd=tmp_path, RAY_ADDRESS="")
    out, err = going.communicate()
    assert going.returncode == 0, out + err
    assert err == ""
    assert len(list(tmp_path.glob("grid/*/summary.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([f"hydra.launcher.resources={{{SLOT}: 2}}"], [f"2 {SLOT}", f"at most 1 CPU, 1 {SLOT}"]),
        (["hydra.launcher.num_gpus=1"], ["1 GPU", "0 GPU", "num_gpus"]),
        (["hydra.launcher.address='127.0.0.1:9'"], ["address=127.0.0.1:9", "no Ray cluster answers"]),
        (["hydra.launcher.address=nonsense"], ["address=nonsense", "no Ray cluster answers"]),
    ],
)
def test_what_a_cluster_can_not_do_is_one_line(nodes, small_run, tmp_path, arguments, words):
    folder = f"hydra.sweep.dir={tmp_path / 'refused'}"
    done = run("sweep", *small_run, *SPACE, *on_cluster(nodes), *arguments, folder)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("stockenh: hydra.launcher") and all(word in line for word in words), line


@pytest.mark.parametrize("key", ["num_cpus=-1", "num_gpus=many", "resources={slot: -1}", "resources=[1]"])
def test_wrong_settings_are_one_line(refused, small_run, here, key):
    line = refused("sweep", *small_run, *SPACE, RAY, f"hydra.launcher.{key}")
    assert f"hydra.launcher.{key.partition('=')[0]}" in line


@pytest.mark.parametrize("command", [["sweep", *SPACE], ["train", "--multirun", "seed=1,2"]])
def test_without_ray_a_line_says_what_to_install(refused, small_run, here, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'stockenh[ray]'" in refused(command[0], *small_run, *command[1:], RAY)
