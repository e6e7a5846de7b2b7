"""`stockenh sweep` from the command to its report; trials are pruned, fail, are killed, and go on."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections import Counter
from pathlib import Path

import optuna
import pytest
import yaml
from processes import Hold, run
from processes import start as command
from waiting import wait_for

from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import open_storage
from stockenh.storage.files import is_locked

pytestmark = pytest.mark.slow

SPACE = ["model.patch=5,10", "model.dropout=interval(0.1,0.3)", "optimizer.lr=tag(log,interval(1e-5,1e-2))"]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(SweepConfig(), folder)
    return optuna.load_study(study_name="stockenh", storage=storage).get_trials()


def states(folder: Path) -> Counter[str]:
    return Counter(trial.state.name for trial in trials_of(folder))


def running(folder: Path) -> list[int]:
    """The numbers of the trials at work."""
    return [trial.number for trial in trials_of(folder) if trial.state.name == "RUNNING"]


@pytest.fixture(scope="module")
def small(small_run: list[str]) -> list[str]:
    """A search of trials that take a second."""
    pruner = ["sweep.pruner.n_startup_trials=2", "sweep.pruner.n_warmup_steps=0"]
    return [*small_run, "sweep=base", *SPACE, *pruner]


@pytest.fixture(scope="module")
def swept(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished search by two workers, and what the command said."""
    folder = tmp_path_factory.mktemp("sweep") / "a sweep (1)"
    both = Hold(tmp_path_factory.mktemp("both"))
    size = ["train.epochs=3", "sweep.n_trials=8", "sweep.n_workers=2"]
    done = command("sweep", *small, *size, f"hydra.sweep.dir={folder}", hold=both)
    both.wait_for(done, number=2)
    both.release()
    out, err = done.communicate()
    assert done.returncode == 0, out + err
    return folder, out


def test_trials_are_ordinary_runs_that_never_saw_the_test_part(swept):
    folder, _ = swept
    trials = trials_of(folder)
    assert [t.number for t in trials] == list(range(8))
    assert all(t.state.name in ("COMPLETE", "PRUNED") for t in trials)
    assert any(t.state.name == "PRUNED" for t in trials)
    for trial in trials:
        run = folder / str(trial.number)
        summary = json.loads((run / "summary.json").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert set(summary["parts"]) == {"val"}
        assert {line["epoch"]: line["val_loss"] for line in lines} == trial.intermediate_values
        assert summary["pruned"] is (trial.state.name == "PRUNED")
        assert len(lines) == (3 if trial.state.name == "COMPLETE" else trial.last_step)
        if trial.state.name == "COMPLETE":
            assert trial.value == summary["val_loss"] == min(line["val_loss"] for line in lines)
        assert "sweep" not in yaml.safe_load((run / "config.yaml").read_text())
        assert (run / ".hydra" / "overrides.yaml").exists()
        assert (run / "weights" / "raw.safetensors").exists()


def test_both_workers_had_trials(swept):
    folder, _ = swept
    assert len({t.user_attrs["worker"] for t in trials_of(folder)}) == 2


def test_the_best_trial_is_told_with_its_test_figure_once(swept):
    folder, said = swept
    complete = [t for t in trials_of(folder) if t.state.name == "COMPLETE"]
    best = min(complete, key=lambda t: t.value)
    flat = " ".join(said.split())
    assert f"trial {best.number}, the best of 8 on validation; the test part was looked at once" in flat
    looked = json.loads((folder / "sweep.json").read_text())["test"]
    assert [look["trial"] for look in looked] == [best.number]
    report = (folder / "report.md").read_text()
    assert f"## The best: trial {best.number}" in report
    assert "Its test part, looked at once, after 8 trials" in report
    assert f"overfit  trial {best.number} has a deflated Sharpe ratio of" in flat.replace(
        "overfit ", "overfit  "
    )
    assert (
        f"{len(complete)} of {len(complete)} complete trials counted" in flat and "## Overfitting" in report
    )
    for name in ("history", "intermediate", "parallel"):
        assert (folder / "report" / f"{name}.png").stat().st_size > 10_000
        assert f"![{name}](report/{name}.png)" in report


@pytest.mark.parametrize("form", ["file", "report"])
def test_the_commands_told_train_the_best_trial_to_the_same_figure(swept, stockenh, tmp_path, form):
    folder, said = swept
    best = min((t for t in trials_of(folder) if t.state.name == "COMPLETE"), key=lambda t: t.value)
    short = ["train", f"run_config={folder / 'best.yaml'}"]
    assert f"stockenh train 'run_config={folder / 'best.yaml'}'" in said
    if form == "report":
        report = (folder / "report.md").read_text().splitlines()
        line = next(a for a in report if a.startswith("stockenh train") and "run_config" not in a)
        short = shlex.split(line)[1:]
    answer = stockenh(*short, f"hydra.run.dir={tmp_path}")
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "summary.json").read_text())["val_loss"] == best.value


def test_the_same_folder_is_the_same_study(swept, small, stockenh):
    folder, _ = swept
    before = [(t.number, t.value, t.datetime_complete) for t in trials_of(folder)]
    again = stockenh("sweep", f"resume={folder}", "sweep.n_trials=9")
    assert again.code == 0, again.err
    assert "8 of 9 trials ended" in again.out
    trials = trials_of(folder)
    assert [(t.number, t.value, t.datetime_complete) for t in trials[:8]] == before
    assert len(trials) == 9 and trials[8].state.is_finished()
    other = stockenh("sweep", *small, "train.epochs=2", f"hydra.sweep.dir={folder}")
    assert other.code == 2
    assert "train.epochs: 2, was 3" in other.err
    wider = [a for a in small if "dropout" not in a]
    other = stockenh(
        "sweep", *wider, "train.epochs=3", "model.dropout=interval(0.1,0.5)", f"hydra.sweep.dir={folder}"
    )
    assert other.code == 2
    assert "sweep.params.model.dropout" in other.err and "high: 0.5" in other.err and "high: 0.3" in other.err


# the command itself, or processes of its own
@pytest.mark.parametrize("n_workers", [pytest.param(1, marks=pytest.mark.deep), 2])
def test_killed_with_its_workers_and_resumed(small, stockenh, tmp_path, n_workers):
    folder, learning = tmp_path / "killed", Hold(tmp_path / "hold", epochs=1)
    arguments = [*small, "train.epochs=4", "sweep.n_trials=4", f"sweep.n_workers={n_workers}"]
    going = command("sweep", *arguments, f"hydra.sweep.dir={folder}", hold=learning)
    workers = learning.wait_for(going, number=n_workers)
    assert (workers == [going.pid]) == (n_workers == 1)
    locks = [lock for pid in workers for lock in (folder / "workers").glob(f"*-{pid}-*.lock")]
    assert len(locks) == n_workers and all(map(is_locked, locks))
    going.kill()
    for number in running(folder):
        (folder / str(number) / ".manifest.json.x.part").touch()  # as a kill within a write leaves one
    wait_for(lambda: not any(map(is_locked, locks)))  # as long as a process lives its lock is held
    dead = running(folder)
    answer = stockenh("sweep", f"resume={folder}")
    assert answer.code == 0, answer.err
    assert len(dead) == n_workers
    assert f"closed as failed, their workers being dead: {', '.join(map(str, dead))}" in answer.out
    assert not list(folder.rglob(".*.part"))
    found = {t.number: t.state.name for t in trials_of(folder)}
    assert [found.pop(number) for number in dead] == ["FAIL"] * n_workers
    assert len(found) == 4 - n_workers and set(found.values()) <= {"COMPLETE", "PRUNED"}


@pytest.mark.deep
def test_a_full_disk_ends_the_search_and_loses_no_trial(small, stockenh, tmp_path):
    folder = tmp_path / "full"
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    )
    arguments = [*small, "train.epochs=1", "sweep.n_trials=3", f"hydra.sweep.dir={folder}"]
    done = run("sweep", *arguments, first=limited)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "checkpoints/best.pt can't be written" in done.stderr
    assert states(folder) == {"WAITING": 3}
    stockenh("sweep", f"resume={folder}", code=0)  # there is room again
    assert set(states(folder)) <= {"COMPLETE", "PRUNED"} and states(folder).total() == 3


@pytest.mark.deep
def test_a_killed_worker_loses_its_trial_and_is_replaced(small, tmp_path):
    folder, learning = tmp_path / "worker", Hold(tmp_path / "hold", epochs=1)
    arguments = [*small, "train.epochs=4", "sweep.n_trials=3", "sweep.n_workers=2"]
    going = command("sweep", *arguments, f"hydra.sweep.dir={folder}", hold=learning)
    worker, _ = learning.wait_for(going, number=2)
    os.kill(worker, signal.SIGKILL)
    learning.wait_for(going, number=3)
    learning.release()
    out, err = going.communicate()
    assert going.returncode == 0, out + err
    found = states(folder)
    assert found.pop("FAIL") == 1 and found.total() == 2 and set(found) <= {"COMPLETE", "PRUNED"}
    assert "its worker died" in out


@pytest.mark.parametrize(
    ("n_workers", "number"),
    [
        (1, signal.SIGTERM),
        *(pytest.param(n, signal.SIGINT, marks=pytest.mark.deep) for n in (1, 2)),
    ],
)
def test_a_stop_saves_the_running_trials_which_go_on(small, stockenh, tmp_path, n_workers, number):
    folder, learning = tmp_path / "stopped", Hold(tmp_path / "hold", epochs=1)
    size = [f"sweep.n_trials={n_workers}", f"sweep.n_workers={n_workers}"]
    arguments = ["sweep", *small, "train.epochs=6", *size, f"hydra.sweep.dir={folder}"]
    going = command(*arguments, hold=learning)
    learning.wait_for(going, number=n_workers)
    going.send_signal(number)
    _, err = going.communicate()
    assert going.returncode == 130, err
    assert f"stockenh sweep resume={folder}" in err
    done = [len(path.read_text().splitlines()) for path in folder.glob("*/metrics.jsonl")]
    assert states(folder) == {"WAITING": n_workers} and max(done) < 6
    assert stockenh("sweep", f"resume={folder}", "sweep.n_workers=1").code == 0
    overrides = yaml.safe_load((folder / "0" / ".hydra" / "overrides.yaml").read_text())
    alone = [a for a in overrides if not a.startswith("sweep")]
    assert stockenh("train", *alone, f"hydra.run.dir={tmp_path / 'whole'}").code == 0
    whole = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    trial = trials_of(folder)[0]
    assert trial.intermediate_values == {line["epoch"]: line["val_loss"] for line in whole}
    assert trial.value == min(line["val_loss"] for line in whole)


def test_a_failing_trial_is_counted_and_too_many_end_the_sweep(small, small_run, stockenh, tmp_path):
    rates = [a for a in small if not a.startswith("optimizer.lr")]
    half, own = tmp_path / "half", tmp_path / "own" / "sweep" / "rates.yaml"
    own.parent.mkdir(parents=True)
    rate = "optimizer.lr: {type: categorical, choices: [1e-3, 1e30]}"
    own.write_text(
        f"# @package _global_\ndefaults: [base, _self_]\nsweep: {{n_trials: 2, params: {{{rate}}}}}\n"
    )
    some = stockenh(
        "sweep", "--config-dir", str(tmp_path / "own"), *small_run, "sweep=rates",
        "sweep.sampler.name=BruteForceSampler", f"hydra.sweep.dir={half}",
    )  # fmt: skip
    assert some.code == 0, some.err
    assert f"--config-dir={tmp_path / 'own'}" in json.loads((half / "sweep.json").read_text())["arguments"]
    assert sorted(t.state.name for t in trials_of(half)) == ["COMPLETE", "FAIL"]
    assert "1 complete, 1 failed" in some.out or "1 failed, 1 complete" in some.out
    assert "the gradient norm is" in some.out
    all_of_them = tmp_path / "all"
    none = stockenh(
        "sweep", *rates, "optimizer.lr=interval(1e29,1e30)", "sweep.n_trials=4",
        f"hydra.sweep.dir={all_of_them}",
    )  # fmt: skip
    assert none.code == 1
    assert "3 of 4 trials failed, more than sweep.max_failures=0.5 allows" in none.err
    assert states(all_of_them) == {"FAIL": 3, "WAITING": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.dropuot=0.1,0.2"], "sweep.params.model.dropuot: no such key of the config. Nearest: model"),
        (["model.dropout=interval(0.3,0.1)"], "low=0.3 lies above high=0.1"),
        (["model.dropout=tag(log,interval(0,0.1))"], "a log scale must begin above 0"),
        (["model.heads=3,4"], "model.heads=3"),
        (["model.dropout=interval(0.5,1.5)"], "model.dropout=1.5 must be below 1"),
        (["loss=focal,nothing"], "sweep.params.loss: no such loss: nothing"),
        (["split.val=0.1,0.2"], "judged on other rows or by luck"),
        (["seed=1,2"], "judged on other rows or by luck"),
        (["device=cpu,cuda"], "no part of a model or its training"),
        (["model.dropout=0.1,0.2", "sweep.storage=sqlite:////no/where/x.db"], "can't be reached"),
        (["model.dropout=0.1,0.2", "split=all"], "this split has none: take split=by_date"),
        (["model.dropout=0.1,0.2", "sweep.metric=val.h7.auc"], "no such horizon. Nearest: val.h"),
        ([], "nothing to draw"),
    ],
)
def test_what_cannot_be_searched_is_said_before_the_first_trial(
    small_run, stockenh, tmp_path, arguments, said
):
    base = [a for a in small_run if "split=all" not in arguments or not a.startswith("split.")]
    answer = stockenh("sweep", *base, "sweep=base", *arguments, f"hydra.sweep.dir={tmp_path / 'x'}")
    assert answer.code == 2
    assert said in answer.err
    assert not list((tmp_path / "x").glob("[0-9]*/metrics.jsonl"))


def test_a_search_is_no_single_run(small_run, stockenh, tmp_path):
    answer = stockenh("train", *small_run, "sweep=default", f"hydra.run.dir={tmp_path}")
    assert answer.code == 2
    assert "stockenh sweep" in answer.err


def test_what_is_no_sweep_is_not_resumed(stockenh, tmp_path):
    answer = stockenh("sweep", f"resume={tmp_path}")
    assert answer.code == 2
    assert "holds no sweep" in answer.err


@pytest.mark.parametrize("argument", ["hydra.sweeper._target_=os.system", "--config-dir=/tmp"])
@pytest.mark.parametrize(("command", "name"), [("sweep", "sweep.json"), ("ablate", "about.json")])
def test_an_untrusted_folder_does_not_decide_what_hydra_is_made_of(
    stockenh, tmp_path, command, name, argument
):
    about = {"arguments": [argument], "command": "train", "base": {}, "recipes": {}}
    (tmp_path / name).write_text(json.dumps(about))
    answer = stockenh(command, f"resume={tmp_path}")
    assert answer.code == 2
    assert "it is not followed" in answer.err or "if you trust it" in answer.err


def test_a_trial_without_a_folder_fails_alone(small, stockenh, tmp_path):
    (tmp_path / "0").touch()
    answer = stockenh("sweep", *small, "sweep.n_trials=2", f"hydra.sweep.dir={tmp_path}")
    assert answer.code == 0, answer.err
    assert states(tmp_path) == {"FAIL": 1, "COMPLETE": 1} and "FileExistsError" in answer.out
