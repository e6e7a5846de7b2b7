"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stockenh.errors import ConfigError, RunFolderError, StockenhError

_PART = ".part"


class DiskError(StockenhError):
    """The disk is full or can't be written. What was there before is untouched."""


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file in one step: a reader or a kill at any moment sees the old one or the new one.

    Raises DiskError where the content can't be written; the old file then stays as it was.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(_PART, f".{path.name}.", path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise DiskError(f"{path} can't be written: {error.strerror}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def remove_parts(folder: Path) -> None:
    """Removes what writers that were killed have left of files; only where no writer can be at work.

    A stranger's link leads nowhere, and what is no file of a writer's stays.
    """
    if folder.is_symlink():
        return
    for part in folder.glob(f".*{_PART}"):
        if part.is_file() and not part.is_symlink():
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; NaN is refused, for it is no JSON."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def expanded(path: str) -> Path:
    """The path with its ~ written out. Raises ConfigError where nobody knows what that is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no home folder for its ~; write the path in full") from None


def append_line(path: Path, line: str) -> None:
    """Appends one line and puts it on the disk."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DiskError(f"{path} can't be written: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


LOCK = ".lock"  # in the folder that only one process may work in


def is_locked(path: Path) -> bool:
    """Whether a living process holds this lock file; asks without writing anything."""
    try:
        with path.open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def alone_in(folder: Path, doing: str) -> Iterator[None]:
    """Keeps every other process out of a folder, which is made where it is not there yet.

    Raises RunFolderError where another is in it already; doing: what that one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"{folder}: another process {doing}") from None
        yield


class WorkerLock:
    """The lock file of a worker: free as soon as the worker is dead, however it died."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.path = folder / f"{self.id}.lock"
        self._handle = self.path.open("w")
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def release(self) -> None:
        """Takes the file away."""
        self._handle.close()
        with suppress(OSError):
            self.path.unlink()
