"""Where a study is kept: a journal in the sweep's folder, or a database."""

from __future__ import annotations

import fcntl
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stockenh.commands.multirun.folder import WORKERS, differences, told
from stockenh.commands.sweep.drawing import pruner_of
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.commands.sweep.settings import SweepConfig
from stockenh.errors import ConfigError
from stockenh.storage.files import is_locked

DEFAULT_NAME = "stockenh"
TRIES = 5  # to open a database that other processes begin to use in the same second
HEARTBEAT_SECONDS = 30  # of a database's trials, for workers on other machines; dead after six of them


@dataclass(frozen=True)
class StudyPlace:
    """Where a study is kept: everything that another process needs to open it."""

    url: str | None  # None: a journal in the folder
    name: str
    folder: Path  # of the sweep

    @classmethod
    def of(cls, settings: SweepConfig, folder: Path) -> StudyPlace:
        return cls(settings.storage, settings.study or DEFAULT_NAME, folder)

    @property
    def journal(self) -> Path:
        return self.folder / "journal.log"

    @property
    def locks(self) -> Path:
        """The folder of the lock files of workers."""
        return self.folder / WORKERS

    def exists(self) -> bool:
        """Whether a journal of a study lies in the folder."""
        return self.url is None and self.journal.is_file()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes that are alone in the same journal waiting; a database has no such lock."""
        if self.url is not None:
            yield
            return
        with self.journal.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def storage(self) -> BaseStorage:
        """The open storage. Raises ConfigError where it can't be reached or read."""
        if self.url is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            return _journal(self.journal)
        try:
            return _database_of_several(self.url)
        except Exception as error:  # every driver has exceptions of its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"sweep.storage={shown(self.url)} can't be reached: {reason}") from None


class _KernelLock(JournalFileSymlinkLock):
    """A lock of the kernel's, which a killed process does not leave behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: Any = None

    def acquire(self) -> bool:
        self._handle = self._path.open("a")
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._handle.close()


def _journal(path: Path) -> JournalStorage:
    lock = _KernelLock(path.with_name(f".{path.name}.lock"))
    lock.acquire()
    try:
        _cut_torn_line(path)
    finally:
        lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged and can't be read as a study: {error}") from None


def _cut_torn_line(path: Path) -> None:
    """Cuts off what a full disk left of a line, which would spoil the line after it."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _database_of_several(url: str) -> RDBStorage:
    """The database, whose tables another process may be making at this very moment."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for _ in range(TRIES - 1):
        try:
            return _database(url)
        except (IntegrityError, ProgrammingError, StorageInternalError):
            time.sleep(1.0)
    return _database(url)


def _database(url: str) -> RDBStorage:
    # a server that does not answer would hold the command for minutes
    engine = {"connect_args": {"connect_timeout": 10}} if url.startswith("postgresql") else {}
    with warnings.catch_warnings():  # heartbeats are an experiment of Optuna's since 2021
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url,
            engine_kwargs=engine,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=6 * HEARTBEAT_SECONDS,
        )


def shown(url: str) -> str:
    """A storage's URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


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
