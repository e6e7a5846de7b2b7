"""The study of a search, which several processes work on: a journal in the sweep's folder, or a database."""

from __future__ import annotations

import inspect
import json
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import optuna
from filelock import FileLock
from optuna.exceptions import (
    DuplicatedStudyError,
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from stockenh.commands.multirun.folder import WORKERS, differences
from stockenh.commands.multirun.stops import STOP, Stop, is_requested
from stockenh.commands.sweep.journal import open_journal
from stockenh.commands.sweep.spec import SweepConfig, SweepFolder
from stockenh.config.overrides import suggest
from stockenh.errors import ConfigError, RunFolderError, counted
from stockenh.storage.files import is_locked
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file, parse_json, read_lines, typed

DEFAULT_NAME = "stockenh"
TRIES = 5  # to open a database that other processes begin to use in the same second
HEARTBEAT_SECONDS = 30  # of a database's trials, for workers on other machines; dead after six of them
FILLING_SECONDS = 60.0, 5.0  # how long another process may take to make a first trial, and the next
NAMELESS_SECONDS = 60  # within which a worker that took a trial has recorded its name
MOST_ARGUMENT = 100_000  # of a sampler or pruner, which may be untrusted
UNPICKLES = ("CmaEsSampler",)
MADE_OF = "made_of"
# The attributes of a trial that the sweep itself sets; in a shared database, anybody may have.
ATTRIBUTES: dict[str, Any] = {
    "worker": Annotated[str, Field(pattern=r"^[\w.-]+$")],
    "left_by": str,
    "deaths": Annotated[int, Field(ge=0)],
    "sweep": str,
    "why": str,
    "epochs": int,
    "stopped_in": str,
    "seconds": Annotated[float, Field(allow_inf_nan=False)],
}
DIED = "its worker died"
# Arguments in the shipped YAML: another class that the command line names may not take them.
SHIPPED = {"multivariate", "group", "constant_liar", "n_startup_trials", "n_warmup_steps"}

optuna.logging.set_verbosity(optuna.logging.ERROR)


def allow_experimental() -> None:
    """Heartbeats, some samplers and all pictures are experimental in Optuna, which warns of each."""
    warnings.simplefilter("ignore", ExperimentalWarning)


def pruner_of(settings: SweepConfig) -> optuna.pruners.BasePruner:
    """The pruner that the settings name; it may wrap another. Raises ConfigError."""
    node = settings.pruner
    if node is None:
        return optuna.pruners.NopPruner()
    if node.get("wrapped_pruner"):
        node = {**node, "wrapped_pruner": _build("pruner", optuna.pruners, node["wrapped_pruner"])}
    built: optuna.pruners.BasePruner = _build("pruner", optuna.pruners, node)
    return built


def sampler_of(settings: SweepConfig, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial. Raises ConfigError.

    Its seed depends on the trial's number and on nothing before it, so that a resumed study draws what an
    uninterrupted one would. The points of a quasi-random sequence and of a grid share one seed.
    """
    shared = settings.sampler.get("name") in ("QMCSampler", "GridSampler")
    own = seed if shared else (seed * 1_000_003 + number) % 2**32
    built: optuna.samplers.BaseSampler = _build("sampler", optuna.samplers, {**settings.sampler, "seed": own})
    return built


def random_start(settings: SweepConfig) -> int:
    """How many trials the sampler draws at random before it learns from them; 0 where it does not say.

    Raises ConfigError where there is no such sampler.
    """
    sampler_of(settings, 0, 0)
    accepted = inspect.signature(getattr(optuna.samplers, settings.sampler["name"])).parameters
    if "n_startup_trials" not in accepted:
        return 0
    return int(settings.sampler.get("n_startup_trials", accepted["n_startup_trials"].default))


def _build(kind: str, package: Any, node: Mapping[str, Any]) -> Any:
    name = str(node.get("name"))
    if name in UNPICKLES:
        raise ConfigError(
            f"sweep.{kind}.name={name} is not available: it unpickles what it finds in the study, which can "
            f"run any code; take TPESampler or GPSampler"
        )
    known = [n for n in package.__all__ if n.endswith(("Sampler", "Pruner")) and not n.startswith("Base")]
    known = [n for n in known if n not in UNPICKLES]
    if name not in known:
        raise ConfigError(f"sweep.{kind}.name={name}: no such {kind}. {suggest(name, known, True)}")
    refuse_huge(kind, node)
    chosen = getattr(package, name)
    accepted = inspect.signature(chosen).parameters
    arguments = {k: v for k, v in node.items() if k != "name" and (k in accepted or k not in SHIPPED)}
    allow_experimental()
    try:
        return chosen(**arguments)
    except Exception as error:  # each class checks its arguments in its own way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"sweep.{kind}: no such {name}: {reason}") from None


def refuse_huge(kind: str, node: Mapping[str, Any]) -> None:
    """Raises ConfigError where an argument is a number that no sampler or pruner can work with."""
    for key, value in node.items():
        if key != "seed" and isinstance(value, int | float) and abs(value) > MOST_ARGUMENT:
            raise ConfigError(f"sweep.{kind}.{key}={value}: at most {MOST_ARGUMENT:,}")


def open_storage(settings: SweepConfig, folder: Path) -> BaseStorage:
    """The storage of a sweep's study. Raises ConfigError where it can't be reached or read."""
    if settings.storage is None:
        return open_journal(folder / "journal.log")
    try:
        return _database(settings.storage)
    except Exception as error:  # every driver has exceptions of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        url = without_password(settings.storage)
        raise ConfigError(f"sweep.storage={url} can't be reached: {reason}") from None


def _database(url: str) -> RDBStorage:
    """The database, whose tables another process may be making at this moment."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    allow_experimental()
    # a server that does not answer would block the command for minutes
    engine = {"connect_args": {"connect_timeout": 10}} if url.startswith("postgresql") else {}
    for left in reversed(range(TRIES)):
        try:
            return RDBStorage(
                url,
                engine_kwargs=engine,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=6 * HEARTBEAT_SECONDS,
            )
        except (IntegrityError, ProgrammingError, StorageInternalError):
            if not left:
                raise
            time.sleep(1.0)
    raise AssertionError("unreachable")


def without_password(url: str) -> str:
    """A storage's URL as it may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def attribute(trial: FrozenTrial, name: str) -> Any:
    """What the sweep recorded of a trial, or None; a value of another type is none of the sweep's."""
    value = trial.user_attrs.get(name)
    with suppress(RunFolderError):
        return None if value is None else typed(ATTRIBUTES[name], value, name)
    return None


class SharedStudy:
    """A study that several processes work on.

    folder: of the sweep; session: of the command, by which it knows the trials that its workers gave back;
    outlives: how many workers may die of a trial until it is closed. Only one process of a folder gives more
    than 0. Raises ConfigError where its storage can't be reached.
    """

    def __init__(self, settings: SweepConfig, folder: Path, session: str = "", outlives: int = 0) -> None:
        self.settings = settings
        self.outlives = outlives
        self._closing = threading.Lock()
        self.folder = folder
        self.session = session or uuid.uuid4().hex
        self.name = settings.study or DEFAULT_NAME
        self.storage = open_storage(settings, folder)
        pruner = pruner_of(settings)
        try:
            self.study = optuna.create_study(
                study_name=self.name,
                storage=self.storage,
                direction=StudyDirection[settings.direction.upper()],
                pruner=pruner,
            )
            self.is_new = True
        except DuplicatedStudyError:
            self.study = optuna.load_study(study_name=self.name, storage=self.storage, pruner=pruner)
            self.is_new = False
        self._id = self.storage.get_study_id_from_name(self.name)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The study's trials by number; all, or those in these states. Not to be changed."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def count_ended(self) -> int:
        """How many trials have ended, in whatever way."""
        return sum(trial.state.is_finished() for trial in self.trials())

    def count_waiting(self) -> int:
        """How many trials of the search wait for a worker."""
        return sum(trial.number < self.settings.n_trials for trial in self.trials(TrialState.WAITING))

    def has_waiting(self) -> bool:
        """Whether trials wait that a new worker could take."""
        self.close_dead()
        return self.count_waiting() > 0 and not self.has_failed()

    def has_failed(self) -> bool:
        """Whether so many trials failed that the search is to end as failed."""
        return len(self.trials(TrialState.FAIL)) > self.settings.max_failures * self.settings.n_trials

    def id_of(self, number: int) -> int:
        """The storage's id of a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def require_same(self, fingerprint: Mapping[str, Any]) -> None:
        """Stores what a study is made of, by dotted key; raises ConfigError with what differs from then."""
        # optuna-dashboard shows all user attributes on the study's page; earlier versions made one of it
        kept = self.storage.get_study_system_attrs(self._id)
        text = kept.get(MADE_OF, self.study.user_attrs.get(MADE_OF))
        now = json.loads(json.dumps(fingerprint))
        if text is None:
            self.storage.set_study_system_attr(self._id, MADE_OF, json.dumps(now))
            return
        try:
            before = typed(dict[str, Any], parse_json(text), MADE_OF)
        except (TypeError, ValueError, RecursionError, RunFolderError):
            raise ConfigError(
                f"the study {self.name} is damaged: {MADE_OF} is not what a sweep records"
            ) from None
        if found := differences(before, now, _as_text):
            where, advice = f"the study {self.name}", "give the same, or begin another with sweep.study=NAME"
            if self.settings.storage is None:
                again = SweepFolder(self.folder).resume_command()
                where = f"the study in {self.folder}"
                advice = f"go on with it by {again}, or name another hydra.sweep.dir"
            raise ConfigError(f"{where} was made of other settings {found}: {advice}")

    def fill(self, first: Mapping[str, Any] | None = None) -> None:
        """Makes waiting trials up to n_trials, unless another process is doing so.

        first: values of the first trial of a new study; what it does not name is drawn
        """
        if self.settings.storage is None:
            with FileLock(self.folder / ".fill.lock"):
                self._enqueue(first or {})
            return
        number, since = len(self.trials()), time.monotonic()  # a database has no such lock
        while not self.is_new and number < self.settings.n_trials:
            if time.monotonic() - since > FILLING_SECONDS[number > 0]:
                break
            time.sleep(0.2)
            if (now := len(self.trials())) > number:
                number, since = now, time.monotonic()
        self._enqueue(first or {})

    def take(self) -> int | None:
        """The number of a waiting trial that is now this process's own; None where none waits."""
        for trial in self.trials(TrialState.WAITING):
            if trial.number >= self.settings.n_trials:
                break
            with suppress(UpdateFinishedTrialError):
                if self._set(trial.number, TrialState.RUNNING):
                    return trial.number
        return None

    def give_back(self, number: int) -> None:
        """Lets a trial wait again, with the values drawn for it, to be resumed from its checkpoint."""
        self.storage.set_trial_user_attr(self.id_of(number), "stopped_in", self.session)
        self._release(number)

    def close(self, number: int, why: str) -> bool:
        """Ends a trial as failed; False where it has ended already."""
        try:
            self.storage.set_trial_user_attr(self.id_of(number), "why", why)
            self._set(number, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        return True

    def close_dead(self) -> list[int]:
        """Closes the running trials whose worker is gone, or lets them wait again; returns those closed.

        After a stop nothing is closed: what it has cut short goes on.
        """
        if is_requested(self.folder):
            return []
        closed = []
        with self._closing:  # of two threads the slower would take a trial from its next worker
            for trial in filter(self._is_dead, self.trials(TrialState.RUNNING)):
                RunFolder(self.folder / str(trial.number)).remove_parts()
                if not self._outlived(trial) and self.close(trial.number, DIED):
                    closed.append(trial.number)
        if isinstance(self.storage, RDBStorage):
            allow_experimental()
            optuna.storages.fail_stale_trials(self.study)
        return closed

    def _outlived(self, trial: FrozenTrial) -> bool:
        """Lets a dead worker's trial wait again, if it may, to go on from its last checkpoint."""
        deaths = (attribute(trial, "deaths") or 0) + 1
        if deaths > self.outlives:
            return False
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(self.id_of(trial.number), "deaths", deaths)
            self._release(trial.number)
            return True
        return False

    def _release(self, number: int) -> None:
        """Lets a trial wait; its next worker is nameless at first, and must not be taken for the last one."""
        of = self.id_of(number)
        self.storage.set_trial_user_attr(of, "left_by", attribute(self.storage.get_trial(of), "worker"))
        self._set(number, TrialState.WAITING)

    def is_running(self) -> bool:
        """Whether a trial runs in a living worker of this sweep's folder."""
        return any(self._is_own(t) and not self._is_dead(t) for t in self.trials(TrialState.RUNNING))

    def stopped(self) -> Stop:
        """What became of the trials of this command's workers after a stop.

        One whose worker ended without saving is given back, too, to go on from its last checkpoint.
        """
        dead = self.give_back_dead()
        lost = [f"trial {number} {self._left_of(number)}" for number in dead]
        given = [t for t in self.trials(TrialState.WAITING) if attribute(t, "stopped_in") == self.session]
        saved = [t for t in given if t.number not in dead]
        left = [t.number for t in self.trials(TrialState.RUNNING) if self._is_own(t)]
        saves = f"saves once its worker sees {self.folder / STOP}"
        return Stop(len(saved), lost, [f"trial {number} {saves}" for number in left])

    def give_back_dead(self) -> list[int]:
        """Gives back the trials of this folder whose workers a stop has ended; returns their numbers."""
        dead = [t.number for t in self.trials(TrialState.RUNNING) if self._is_own(t) and self._is_dead(t)]
        given = []
        for number in dead:
            with suppress(UpdateFinishedTrialError):
                self.give_back(number)
                given.append(number)
        return given

    def _left_of(self, number: int) -> str:
        run = RunFolder(self.folder / str(number))
        if not is_file(run.last):
            return "ended before its first checkpoint and begins again"
        epochs = sum(map(bool, read_lines(run.metrics)))
        return f"ended without saving and goes on from its last checkpoint, {counted(epochs, 'epoch')}"

    def _is_own(self, trial: FrozenTrial) -> bool:
        return bool(attribute(trial, "sweep") == str(self.folder))

    def start_heartbeat(self, number: int) -> threading.Event:
        """Until the event is set, a database sees that this trial's worker lives; a journal has locks."""
        over = threading.Event()
        if not isinstance(storage := self.storage, RDBStorage):
            return over
        trial_id = self.id_of(number)

        def beat() -> None:
            while True:
                with suppress(Exception):  # a database that is away for a moment is no reason to stop
                    storage.record_heartbeat(trial_id)
                if over.wait(HEARTBEAT_SECONDS):
                    return

        threading.Thread(target=beat, daemon=True).start()
        return over

    def _enqueue(self, first: Mapping[str, Any]) -> None:
        while (number := len(self.trials())) < self.settings.n_trials:
            self.study.enqueue_trial({} if number else dict(first))

    def _set(self, number: int, state: TrialState) -> bool:
        return self.storage.set_trial_state_values(self.id_of(number), state=state)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        worker = attribute(trial, "worker")
        is_alive = worker is not None and is_locked(self.folder / WORKERS / f"{worker}.lock")
        # taken a moment ago, or by a process that died within that moment
        if not is_alive and worker == attribute(trial, "left_by"):
            began = trial.datetime_start
            return began is not None and time.time() - began.timestamp() > NAMELESS_SECONDS
        if self.settings.storage is not None and not self._is_own(trial):
            return False  # of another sweep on this study: its heartbeat decides
        return not is_alive


def _as_text(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{value}"
    return "{" + ", ".join(f"{k}: {v}" for k, v in value.items() if v is not None and v is not False) + "}"
