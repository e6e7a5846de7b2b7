"""The queue of trials that processes share: each is taken once, and the dead are closed."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from stockenh.commands.multirun.folder import WORKERS
from stockenh.commands.sweep.space import Space
from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import SharedStudy, pruner_of, random_start, sampler_of
from stockenh.commands.sweep.trials import StudySource, metric_of
from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError
from stockenh.storage.files import WorkerLock, is_locked
from stockenh.training.stop import Interrupted

SETTINGS = SweepConfig(n_trials=6, params={"x": {"type": "float", "low": 0, "high": 1}})
_SPAWN = multiprocessing.get_context("spawn")


def shared(folder: Path, settings: SweepConfig = SETTINGS) -> SharedStudy:
    return SharedStudy(settings, folder)


def states(study: SharedStudy) -> Counter[str]:
    return Counter(t.state.name for t in study.trials())


def take_all(folder: str, url: str | None, answer: Connection) -> None:
    """In another process: takes and ends trials until none is left."""
    settings = SweepConfig(n_trials=40, storage=url)
    study = SharedStudy(settings, Path(folder))
    study.fill()
    taken = []
    while (number := study.take()) is not None:
        taken.append(number)
        study.study.tell(number, 1.0)
    answer.send(taken)


def hold_a_trial(folder: str, answer: Connection) -> None:
    """In another process: takes a trial, and waits to be killed."""
    study = shared(Path(folder))
    lock = WorkerLock(study.folder / WORKERS)
    number = study.take()
    assert number is not None
    study.storage.set_trial_user_attr(study.id_of(number), "worker", lock.id)
    answer.send((number, lock.path))
    answer.recv()


def test_two_processes_never_repeat_or_lose_a_trial(tmp_path):
    pipes = [_SPAWN.Pipe() for _ in range(2)]
    both = [_SPAWN.Process(target=take_all, args=(str(tmp_path), None, there)) for _, there in pipes]
    for process, (_, there) in zip(both, pipes, strict=True):
        process.start()
        there.close()  # else nobody would see that the process ended early
    taken = [here.recv() for here, _ in pipes]
    for process in both:
        process.join()
    assert sorted(taken[0] + taken[1]) == list(range(40))
    assert states(shared(tmp_path)) == {"COMPLETE": 40}


def test_the_trial_of_a_killed_worker_is_closed_and_only_that(tmp_path):
    study = shared(tmp_path)
    study.fill()
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=hold_a_trial, args=(str(tmp_path), there))
    process.start()
    number, lock = here.recv()
    assert is_locked(lock)
    assert study.close_dead() == []
    assert states(study) == {"RUNNING": 1, "WAITING": 5}
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not is_locked(lock)
    assert study.close_dead() == [number]
    assert study.trials()[number].user_attrs["why"] == "its worker died"
    assert states(study) == {"FAIL": 1, "WAITING": 5}


def test_a_trial_outlives_as_many_workers_as_it_may(tmp_path):
    study = SharedStudy(SweepConfig(n_trials=1), tmp_path, outlives=2)
    study.fill()
    for after in ("WAITING", "WAITING", "FAIL"):
        number = study.take()
        assert study.close_dead() == []  # the next worker has not said yet who it is
        lock = WorkerLock(tmp_path / WORKERS)
        for key, value in (("worker", lock.id), ("sweep", str(tmp_path))):
            study.storage.set_trial_user_attr(study.id_of(number), key, value)
        assert study.close_dead() == [] and study.is_running()
        lock.release()
        assert study.has_waiting() == (after == "WAITING")
        assert states(study) == {after: 1}


def test_a_trial_that_was_given_back_is_not_dead_before_its_next_worker_has_a_name(tmp_path):
    study = shared(tmp_path)
    study.fill()
    number = study.take()
    with WorkerLock(tmp_path / WORKERS) as lock:
        study.storage.set_trial_user_attr(study.id_of(number), "worker", lock.id)
        study.give_back(number)
    assert study.take() == number
    assert study.close_dead() == []


def test_n_trials_is_the_total_of_the_study(tmp_path):
    study = shared(tmp_path)
    study.fill()
    for _ in range(3):
        study.study.tell(study.take(), 1.0)
    again = shared(tmp_path)
    again.fill()
    assert states(again) == {"COMPLETE": 3, "WAITING": 3}
    fewer = shared(tmp_path, SweepConfig(n_trials=3))
    fewer.fill()
    assert fewer.take() is None
    more = shared(tmp_path, SweepConfig(n_trials=8))
    more.fill()
    assert states(more) == {"COMPLETE": 3, "WAITING": 5}


def test_the_first_trial_of_a_new_study_may_have_given_values(tmp_path):
    study = shared(tmp_path)
    study.fill({"x": 0.25})
    found = [
        optuna.trial.Trial(study.study, study.id_of(study.take())).suggest_float("x", 0, 1) for _ in "ab"
    ]
    assert found[0] == 0.25 != found[1]
    assert states(study) == {"RUNNING": 2, "WAITING": 4}  # it is one of n_trials
    more = shared(tmp_path, SweepConfig(n_trials=8))
    more.fill({"x": 0.75})  # not new any more
    values = [optuna.trial.Trial(more.study, more.id_of(n)).suggest_float("x", 0, 1) for n in range(8)]
    assert 0.75 not in values


def test_a_given_value_may_be_given_back_and_taken_again(tmp_path):
    study = shared(tmp_path)
    study.fill({"x": 0.25})
    study.give_back(study.take())
    other = shared(tmp_path)
    other.fill()
    assert optuna.trial.Trial(other.study, other.id_of(other.take())).suggest_float("x", 0, 1) == 0.25


def test_a_database_begins_with_the_given_values_too(tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    study = shared(tmp_path, SweepConfig(n_trials=3, storage=url))
    study.fill({"x": 0.25})
    assert optuna.trial.Trial(study.study, study.id_of(study.take())).suggest_float("x", 0, 1) == 0.25


def test_a_trial_given_back_is_taken_again_with_its_values(tmp_path):
    study = shared(tmp_path)
    study.fill()
    number = study.take()
    assert number == 0
    drawn = optuna.trial.Trial(study.study, study.id_of(number)).suggest_float("x", 0, 1)
    study.give_back(number)
    assert states(study) == {"WAITING": 6}
    other = shared(tmp_path)
    assert other.take() == 0
    assert optuna.trial.Trial(other.study, other.id_of(0)).suggest_float("x", 0, 1) == drawn


def test_a_line_that_a_full_disk_cut_off_is_forgotten(tmp_path):
    study = shared(tmp_path)
    study.fill()
    with (tmp_path / "journal.log").open("a") as file:
        file.write('{"op_code": 6, "wor')
    again = shared(tmp_path)
    again.study.tell(again.take(), 0.5)
    assert shared(tmp_path).trials()[0].value == 0.5


def test_a_damaged_journal_is_refused_in_a_line(tmp_path):
    shared(tmp_path).fill()
    (tmp_path / "journal.log").write_text("not a journal\nat all\n")
    with pytest.raises(ConfigError, match=r"journal.log is damaged and can't be read as a study"):
        shared(tmp_path)


def test_other_settings_in_the_same_folder_are_named(tmp_path):
    study = shared(tmp_path)
    study.require_same({"model.layers": 2, "sweep.params.x": {"low": 0, "high": 1, "step": None}})
    study.require_same({"model.layers": 2, "sweep.params.x": {"low": 0, "high": 1, "step": None}})
    with pytest.raises(ConfigError) as refused:
        study.require_same({"model.layers": 3, "sweep.params.x": {"low": 0, "high": 2, "step": None}})
    said = str(refused.value)
    assert "model.layers: 3, was 2" in said
    assert "sweep.params.x: {low: 0, high: 2}, was {low: 0, high: 1}" in said
    assert f"stockenh sweep resume={tmp_path}" in said


@pytest.mark.parametrize(
    ("sampler", "start"),
    [
        ({"name": "TPESampler"}, 10),
        ({"name": "TPESampler", "n_startup_trials": 4}, 4),
        ({"name": "GPSampler"}, 10),
        ({"name": "RandomSampler"}, 0),
    ],
)
def test_how_many_trials_a_sampler_draws_at_random_first(sampler, start):
    assert random_start(SweepConfig(sampler=sampler)) == start


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////no/such/folder/study.db", r"sqlite:////no/such/folder/study.db can't be reached"),
        ("postgresql+psycopg2://u:secret@127.0.0.1:1/db", r"u:\*\*\*@127.0.0.1:1/db can't be reached"),
        ("nonsense", r"sweep.storage=nonsense can't be reached"),
    ],
)  # fmt: skip
def test_a_storage_that_is_not_there_is_a_line_without_the_password(tmp_path, url, said):
    with pytest.raises(ConfigError, match=said) as refused:
        shared(tmp_path, SweepConfig(storage=url))
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_database_keeps_a_study_by_its_name(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    one = shared(tmp_path, SweepConfig(n_trials=2, storage=url, study="one"))
    one.fill()
    one.study.tell(one.take(), 0.1)
    assert states(shared(tmp_path, SweepConfig(n_trials=2, storage=url, study="one"))) == {
        "COMPLETE": 1, "WAITING": 1,
    }  # fmt: skip
    assert states(shared(tmp_path, SweepConfig(n_trials=2, storage=url, study="other"))) == {}


def test_samplers_and_pruners_come_by_name_and_seeded():
    settings = SweepConfig(
        sampler={"name": "RandomSampler"}, pruner={"name": "PercentilePruner", "percentile": 25}
    )
    assert type(pruner_of(settings)).__name__ == "PercentilePruner"
    assert type(pruner_of(SweepConfig())).__name__ == "NopPruner"
    # what the shipped YAML says of the classes it names stays behind where another is named
    shipped = SweepConfig(
        sampler={"name": "RandomSampler", "multivariate": True},
        pruner={"name": "HyperbandPruner", "n_warmup_steps": 2},
    )
    assert type(sampler_of(shipped, 0, 0)).__name__ == "RandomSampler"
    assert type(pruner_of(shipped)).__name__ == "HyperbandPruner"
    patient = {"name": "PatientPruner", "patience": 2, "wrapped_pruner": {"name": "MedianPruner"}}
    assert type(pruner_of(SweepConfig(pruner=patient))).__name__ == "PatientPruner"

    def first(seed: int, number: int) -> float:
        study = optuna.create_study(sampler=sampler_of(settings, seed, number))
        return study.ask().suggest_float("x", 0, 1)

    assert first(42, 0) == first(42, 0)
    assert len({first(42, 0), first(42, 1), first(43, 0)}) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": {"name": "TPESamplr"}}, r"sampler.name=TPESamplr: no such sampler. Nearest: TPESampler"),
        ({"sampler": {"name": "TPESampler", "n_startup": 3}}, r"no such TPESampler: .*n_startup"),
        ({"pruner": {"name": "os.system"}}, r"sweep.pruner.name=os.system: no such pruner"),
    ],
)  # fmt: skip
def test_what_optuna_does_not_have_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        pruner_of(SweepConfig(**settings))
        sampler_of(SweepConfig(**settings), 0, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_trials": 0}, r"sweep.n_trials=0 must be at least 1"),
        ({"n_workers": 0}, r"sweep.n_workers=0 must be at least 1"),
        ({"max_hours": 0.0}, r"sweep.max_hours=0.0"),
        ({"max_hours": math.inf}, r"sweep.max_hours=inf"),
        ({"max_failures": 1.5}, r"sweep.max_failures=1.5 must be at most 1"),
        ({"metric": "test.h5.auc"}, r"judged on validation only"),
        ({"metric": "val.h5.acu"}, r"one of val_loss, val.h5.accuracy, val.h5.auc"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        settings_of("sweep", SweepConfig, settings)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("val_loss", "minimize"), ("val.h5.auc", "maximize"), ("val.h3.brier", "minimize")],
)
def test_the_better_direction_follows_from_the_metric(metric, direction):
    assert SweepConfig(metric=metric).direction == direction


def test_the_metric_is_a_figure_of_validation():
    validation = {"loss": 0.4, "h5": {"auc": 0.51, "brier": None}}
    assert metric_of(validation, "val_loss") == 0.4
    assert metric_of(validation, "val.h5.auc") == 0.51
    with pytest.raises(ConfigError, match=r"sweep.metric=val.h5.acu is no figure.*val.h5.auc"):
        metric_of(validation, "val.h5.acu")
    with pytest.raises(ConfigError, match=r"val.h5.brier is no figure"):
        metric_of(validation, "val.h5.brier")


def test_more_failures_than_their_share_of_all_trials_are_too_many(tmp_path):
    settings = SweepConfig(n_trials=4, max_failures=0.5)
    study = shared(tmp_path, settings)
    study.fill()
    for expected in (False, False, True):
        study.close(study.take(), "it failed")
        assert study.has_failed() is expected
    assert study.trials()[0].state == TrialState.FAIL


def test_when_the_time_is_over_no_trial_begins_and_a_running_one_is_taken_up_later(tmp_path):
    settings = SweepConfig(n_trials=2, params=SETTINGS.params)
    shared(tmp_path, settings).fill()
    space = Space.of(settings.params)
    source = StudySource(settings, tmp_path, space, {}, seed=1, deadline=time.time() + 600)
    source.open("worker")
    trial = source.take()
    assert trial is not None and trial.overrides[0].startswith("x=")
    line = {"weights": "raw", "by_weights": {"raw": {"loss": 0.7}}}
    assert trial.report(1, line) is False
    trial.deadline = source.deadline = time.time()
    with pytest.raises(Interrupted):
        trial.report(2, line)
    trial.give_back()
    assert source.take() is None and not trial.stopped
    assert states(shared(tmp_path, settings)) == {"WAITING": 2}
    assert shared(tmp_path, settings).trials()[0].intermediate_values == {1: 0.7, 2: 0.7}


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "of an earlier version"])
def test_what_a_study_is_made_of_is_none_of_the_attributes_that_people_see(tmp_path, earlier):
    study = shared(tmp_path)
    if earlier:
        study.study.set_user_attr("made_of", '{"model.layers": 2}')
    study.require_same({"model.layers": 2})
    again = shared(tmp_path)
    assert again.study.user_attrs.keys() == ({"made_of"} if earlier else set())
    again.require_same({"model.layers": 2})
    with pytest.raises(ConfigError, match=r"model\.layers: 3, was 2"):
        again.require_same({"model.layers": 3})
