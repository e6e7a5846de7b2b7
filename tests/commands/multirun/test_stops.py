"""The file that stops the workers of a multirun, and what is said of the jobs that it stopped."""

from __future__ import annotations

import os
import signal

import pytest

from stockenh.commands.multirun.folder import WORKERS
from stockenh.commands.multirun.stops import STOP, Stop, is_requested, request, withdraw
from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import SharedStudy
from stockenh.storage.files import WorkerLock
from stockenh.storage.run_folder import RunFolder
from stockenh.training import stop as stops
from stockenh.training.stop import Interrupted, StopRequest, stop_on_signal

THINGS = {
    "nothing": (lambda path: None, False),
    "a file": (lambda path: path.touch(), True),
    "a file of anything": (lambda path: path.write_bytes(os.urandom(1000)), True),
    "a folder": (lambda path: path.mkdir(), False),
    "a FIFO": (lambda path: os.mkfifo(path), False),
    "a link": (lambda path: path.symlink_to(path.parent / "target"), False),
    "a broken link": (lambda path: path.symlink_to(path.parent / "nowhere"), False),
}


@pytest.mark.parametrize("thing", THINGS)
def test_only_a_regular_file_stops_and_nothing_else_is_touched(tmp_path, thing):
    make, counts = THINGS[thing]
    (tmp_path / "target").write_text("kept")
    make(tmp_path / STOP)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert is_requested(tmp_path) == counts
    request(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before or thing == "nothing"
    withdraw(tmp_path)
    assert not is_requested(tmp_path)
    assert os.path.lexists(tmp_path / STOP) == (not counts and thing != "nothing")
    assert (tmp_path / "target").read_text() == "kept"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (Stop(0), "no trial was running"),
        (Stop(1), "1 trial saved and given back"),
        (Stop(2, ["trial 3 ended"]), "2 trials saved and given back, 1 lost: trial 3 ended"),
        (Stop(0, running=["trial 1 saves", "trial 2 saves"]), "2 trials still running: trial 1 saves; trial"),
    ],
)
def test_a_stop_counts_what_was_saved_and_what_was_not(stop, text):
    assert stop.text("trials").startswith(text)


def test_a_run_looks_for_the_file_about_once_a_second(monkeypatch):
    now, looks = [100.0], []
    monkeypatch.setattr(stops.time, "monotonic", lambda: now[0])
    stop = StopRequest(look=lambda: bool(looks.append(now[0])) or now[0] > 105)
    for _ in range(30):
        assert not stop.is_due()
        now[0] += 0.1
    assert len(looks) <= 4
    now[0] += 5
    assert stop.is_due() and stop.is_due()
    assert len(looks) <= 5


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGUSR2), (signal.SIGUSR2, signal.SIGTERM)])
def test_a_preemption_beside_a_sigterm_saves_and_goes_to_the_launcher(numbers):
    received = []
    before = signal.signal(signal.SIGUSR2, lambda *_: received.append("requeued"))
    try:
        with stop_on_signal() as stop:
            for number in numbers:
                signal.raise_signal(number)
            assert stop.is_due() and received == []
        Interrupted(stop.signum).pass_on()
        Interrupted(signal.SIGTERM).pass_on()
        assert received == ["requeued"]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts_at_once(number):
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        signal.raise_signal(number)
        signal.raise_signal(number)


def test_trials_whose_workers_a_stop_has_killed_are_lost_and_go_on(tmp_path):
    study = SharedStudy(SweepConfig(n_trials=3), tmp_path)
    study.fill()
    locks = [WorkerLock(tmp_path / WORKERS) for _ in range(3)]
    for lock in locks:
        number = study.take()
        for key, value in (("worker", lock.id), ("sweep", str(tmp_path))):
            study.storage.set_trial_user_attr(study.id_of(number), key, value)
    run = RunFolder(tmp_path / "1")
    run.last.parent.mkdir(parents=True)
    run.last.touch()
    run.metrics.write_text("{}\n{}\n")
    request(tmp_path)
    study.give_back(0)
    locks[0].release()
    locks[1].release()
    assert study.close_dead() == [] and study.is_running()
    text = study.stopped().text("trials")
    assert text.startswith("1 trial saved and given back, 1 lost: trial 1 ended without saving and goes on")
    assert "2 epochs" in text and "1 still running: trial 2" in text
    assert [trial.state.name for trial in study.trials()] == ["WAITING", "WAITING", "RUNNING"]
    locks[2].release()
