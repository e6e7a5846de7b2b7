"""Lock files: the kernel's own locks, which a killed process does not leave behind."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stockenh.errors import RunFolderError

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
