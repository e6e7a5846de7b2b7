"""The study: an Optuna storage that outlives its processes, with a queue of trials that many workers share.

The trials of a study are made at once, waiting, so that n_trials is exact however many processes draw from
the queue. A worker takes a waiting trial, which the storage grants to one of them only, and holds a lock
file that the kernel releases when the worker dies: a running trial whose lock is free is dead.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stockenh.errors import ConfigError
from stockenh.locks import is_locked
from stockenh.multirun.same import differences, told
from stockenh.sweep.drawing import pruner_of
from stockenh.sweep.folder import SweepFolder
from stockenh.sweep.settings import SweepConfig
from stockenh.sweep.storage import HEARTBEAT_SECONDS, StudyPlace

FILLING_SECONDS = 60.0, 5.0  # how long another process may take to make a first trial, and the next
NAMELESS_SECONDS = 60  # within which a worker that took a trial has said who it is
MADE_OF = "made_of"
DIED = "its worker died"

optuna.logging.set_verbosity(optuna.logging.ERROR)


class SharedStudy:
    """A study that several processes work on. Raises ConfigError where its storage can't be reached."""

    def __init__(self, place: StudyPlace, settings: SweepConfig) -> None:
        self.place = place
        self.settings = settings
        self.storage = place.storage()
        pruner = pruner_of(settings)
        try:
            self.study = optuna.create_study(
                study_name=place.name,
                storage=self.storage,
                direction=StudyDirection[settings.direction.upper()],
                pruner=pruner,
            )
            self.fresh = True
        except optuna.exceptions.DuplicatedStudyError:
            self.study = optuna.load_study(study_name=place.name, storage=self.storage, pruner=pruner)
            self.fresh = False
        self._id = self.storage.get_study_id_from_name(place.name)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The study's trials by number; all, or those in these states. Not to be changed."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def id_of(self, number: int) -> int:
        """What the storage calls a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def require_same(self, made_of: Mapping[str, Any]) -> None:
        """Stores what a study is made of, by dotted key; raises ConfigError with what differs from then."""
        text = self.study.user_attrs.get(MADE_OF)
        now = json.loads(json.dumps(made_of))
        if text is None:
            self.study.set_user_attr(MADE_OF, json.dumps(now))
            return
        if found := differences(json.loads(text), now, _said):
            raise ConfigError(_other_settings(self.place, found))

    def fill(self) -> None:
        """Makes waiting trials up to n_trials, where another process does not do so at this moment."""
        wanted = self.settings.n_trials
        if self.place.url is not None and not self.fresh:
            _until_still(lambda: len(self.trials()), wanted)
        with self.place.alone():
            while len(self.trials()) < wanted:
                self.study.enqueue_trial({})

    def take(self) -> int | None:
        """The number of a waiting trial that is now this process's own; None where none waits."""
        for trial in self.trials(TrialState.WAITING):
            if trial.number >= self.settings.n_trials:
                break
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                if self._set(trial.number, TrialState.RUNNING):
                    return trial.number
        return None

    def give_back(self, number: int) -> None:
        """Lets a trial wait again, with the values drawn for it: it will be taken up where it was."""
        self._set(number, TrialState.WAITING)

    def close(self, number: int, why: str) -> bool:
        """Ends a trial as failed; False where it has ended already."""
        try:
            self.storage.set_trial_user_attr(self.id_of(number), "why", why)
            self._set(number, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def close_dead(self) -> list[int]:
        """Closes the running trials whose worker is gone; returns their numbers."""
        running = self.trials(TrialState.RUNNING)
        closed = [t.number for t in running if self._is_dead(t) and self.close(t.number, DIED)]
        if isinstance(self.storage, RDBStorage):
            with warnings.catch_warnings():  # heartbeats are an experiment of Optuna's since 2021
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
        return closed

    @contextmanager
    def heartbeat(self, number: int) -> Iterator[None]:
        """Tells a database that this trial lives, for as long as it does; a journal's workers have locks."""
        if not isinstance(storage := self.storage, RDBStorage):
            yield
            return
        over, trial_id = threading.Event(), self.id_of(number)

        def beat() -> None:
            while True:
                with suppress(Exception):  # a database that is away for a moment is no reason to stop
                    storage.record_heartbeat(trial_id)
                if over.wait(HEARTBEAT_SECONDS):
                    return

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _set(self, number: int, state: TrialState) -> bool:
        return self.storage.set_trial_state_values(self.id_of(number), state=state)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:  # taken a moment ago, or by a process that died within that moment
            began = trial.datetime_start
            return began is not None and time.time() - began.timestamp() > NAMELESS_SECONDS
        if self.place.url is not None and trial.user_attrs.get("sweep") != str(self.place.folder):
            return False  # of another sweep on this study: its heartbeat tells
        return not is_locked(self.place.locks / f"{worker}.lock")


def _until_still(count: Callable[[], int], wanted: int) -> None:
    """Returns once so many are there, or another process adds no more."""
    number, since = count(), time.monotonic()
    while number < wanted and time.monotonic() - since < FILLING_SECONDS[number > 0]:
        time.sleep(0.2)
        if (now := count()) > number:
            number, since = now, time.monotonic()


def _other_settings(place: StudyPlace, found: list[str]) -> str:
    if place.url is None:
        where = f"the study in {place.folder}"
        again = SweepFolder(place.folder).resume_command()
        advice = f"go on with it by {again}, or name another hydra.sweep.dir"
    else:
        where, advice = f"the study {place.name}", "give the same, or begin another with sweep.study=NAME"
    return f"{where} was made of other settings {told(found)}: {advice}"


def _said(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{value}"
    return "{" + ", ".join(f"{k}: {v}" for k, v in value.items() if v is not None and v is not False) + "}"
