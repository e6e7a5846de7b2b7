"""Atomic files, and locks that a killed process leaves free."""

from __future__ import annotations

import difflib
import errno
import json
import logging
import math
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from filelock import FileLock, Timeout

from stockenh.errors import ConfigError, RunFolderError, StockenhError, printable_line
from stockenh.storage.untrusted import open_file, require_plain_folder

try:
    import fcntl
except ImportError:  # on Windows, which lets nobody remove or replace a file that a process has open
    fcntl = None  # type: ignore[assignment]

LOCK: Final = ".lock"  # in a folder that only one process may work in
_LOCK_SECONDS: Final = 0.2  # `is_locked` holds a lock for a moment, which is no reason to refuse a folder
_PART: Final = ".part"
MOST_LOCK_BYTES: Final = 2**20
_DAY: Final = 24 * 60 * 60  # seconds after which a folder that can't be claimed is a dead process's
_ALIKE: Final = 0.7  # how much alike a name that is there and a misspelt one are
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskError(StockenhError):
    """The disk is full or can't be written. What was there before is untouched."""

    def __init__(self, message: str, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full


def full_disk(error: Exception) -> DiskError | None:
    """What to raise where an error says that the disk is full; else None."""
    if isinstance(error, DiskError):
        return error if error.is_full else None
    if isinstance(error, OSError) and error.errno in _FULL:
        return DiskError(f"{error.filename or 'a file'} can't be written: {error.strerror}", is_full=True)
    return None


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file in one step: readers see the old content or the new, also after a kill.

    Raises DiskError where the content can't be written; the old file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PART}")
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                _claim(file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if fcntl is not None:  # while it is claimed
                    temporary.replace(path)
            if fcntl is None:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Removes the temporary files and folders of killed processes; those of living ones stay.

    Links are not followed, and anything else stays: the folder may be untrusted.
    """
    if folder.is_symlink():
        return
    for path in (*folder.glob(f".*{_PART}"), *folder.glob(f"{_PART}-*")):
        is_folder = path.name.startswith(f"{_PART}-")
        if not (path.is_dir() if is_folder else path.is_file()):
            continue
        with suppress(OSError), _unclaimed(path, is_folder):
            if is_folder:
                shutil.rmtree(path)
            else:
                path.unlink()


def nothing_there(path: Path) -> str:
    """`no such file or folder`, with the name beside it that is most like the one given."""
    beside: list[str] = []
    with suppress(OSError):
        beside = [entry.name for entry in os.scandir(path.parent)]
    near = difflib.get_close_matches(path.name, beside, 1, _ALIKE)
    return "no such file or folder" + (f" (but {printable_line(near[0])} is there)" if near else "")


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder for files that belong together; it goes with the block, unless it is renamed in it.

    If this process is killed, `remove_parts(parent)` of another one removes the folder. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder, handle = _claimed_folder(parent)
    try:
        yield folder
    finally:
        if handle is not None:
            os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def _claimed_folder(parent: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PART}-", dir=parent))
        if fcntl is None:
            return folder, None
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            _claim(handle)
            if folder.is_dir():
                return folder, handle
            os.close(handle)  # another process took it for a dead one's before it was claimed


@contextmanager
def _unclaimed(path: Path, is_folder: bool) -> Iterator[None]:
    """Holds a path that is no link and no living process's own. Raises OSError where it is one's."""
    if fcntl is None:
        if is_folder and time.time() - path.stat().st_mtime < _DAY:
            raise BlockingIOError
        yield
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _claim(handle: int) -> None:
    """Marks an open file or folder as a living process's own. On a file system without locks nothing is
    marked, and nothing is removed."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; see `json_text`."""
    write_atomic(path, (json_text(value, indent=2) + "\n").encode())


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON, which has no NaN and no infinity: such figures are null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def expanded(path: str) -> Path:
    """The path with its ~ expanded. Raises ConfigError where there is no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no home folder for its ~; write the path in full") from None


def append_line(path: Path, line: str) -> None:
    """Appends one line and syncs it to disk; follows no link. Raises DiskError."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    with _disk_errors(path), open(path, "a", encoding="utf-8", opener=opener) as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"{path} can't be written: {error.strerror}", error.errno in _FULL) from None


def is_locked(path: Path) -> bool:
    """Whether a living process holds this lock file.

    It only reads, so it may probe an untrusted folder; a FileLock would create and truncate files there. Only
    a FileLock can probe on Windows, and there it does so to a regular file of a lock's size alone.
    """
    try:
        if fcntl is None:
            open_file(path, MOST_LOCK_BYTES).close()
            with FileLock(path).acquire(blocking=False):
                return False
        with open_file(path, MOST_LOCK_BYTES) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, Timeout):
        return True
    except (OSError, RunFolderError):
        return False
    return False


@contextmanager
def lock_folder(folder: Path, activity: str) -> Iterator[None]:
    """Keeps other processes out of a folder, which is created if needed; a killed process frees it.

    Raises RunFolderError where another process holds it, and where a link in the folder leads out of it;
    activity: what that process does there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    require_plain_folder(folder, to_write=True)
    try:
        lock = FileLock(folder / LOCK).acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise RunFolderError(f"{folder}: another process {activity}") from None
    with lock:
        yield


class WorkerLock:
    """A worker's lock file, which other processes probe with `is_locked`; free once the worker is dead."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.path = folder / f"{self.id}.lock"
        self._lock = FileLock(self.path, thread_local=False)
        self._lock.acquire()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Frees the lock and removes its file."""
        self._lock.release()
        with suppress(OSError):
            self.path.unlink()


class LogFile(logging.FileHandler):
    """A log that ends silently where the disk is full: the writers of all else report that, and stop."""

    def __init__(self, filename: str | os.PathLike[str], mode: str = "a", encoding: str = "utf-8") -> None:
        try:
            super().__init__(filename, mode, encoding)
        except OSError:
            super().__init__(os.devnull, mode, encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        """Prints nothing, where logging's own would print a traceback for every record."""

    def close(self) -> None:
        """Also where the last lines can't be written."""
        with suppress(OSError):
            super().close()
