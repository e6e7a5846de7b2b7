"""Where a study is kept: a journal in the sweep's folder, or a database."""

from __future__ import annotations

import fcntl
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from stockenh.errors import ConfigError
from stockenh.multirun.folder import WORKERS
from stockenh.sweep.settings import SweepConfig

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
