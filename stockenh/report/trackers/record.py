"""tracker.json: who a folder is at trackers, and what was sent. It may be untrusted.

The id is drawn at random, so a folder that somebody else made can't be taken for a run of this machine's. It
holds no address: where to send comes from the command line.
"""

from __future__ import annotations

import hashlib
import uuid
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import Field
from typing_extensions import TypedDict

from stockenh.errors import RunFolderError
from stockenh.report.trackers import Sent
from stockenh.storage.files import write_json
from stockenh.storage.run_folder import AS_WRITTEN, RunFolder
from stockenh.storage.untrusted import read_json, require_plain_folder

LOCK_SECONDS = 60.0  # making a database takes several on a busy machine
MOST_EPOCHS = 10**9


class SentRecord(TypedDict):
    """What one kind of tracker has of the folder's run."""

    epoch: Annotated[int, Field(ge=0, le=MOST_EPOCHS)]
    status: Literal["FINISHED", "KILLED", "FAILED"] | None


class TrackerRecord(TypedDict):
    """The content of tracker.json."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    sent: dict[str, SentRecord]


def id_of(folder: Path, is_shared: bool = False) -> str:
    """The id of a run's or sweep's folder, which is written on first use. Raises DiskError, RunFolderError.

    is_shared: whether several processes may ask at the same time, as the jobs of a grid do for their parent's
    """
    with suppress(FileNotFoundError, RunFolderError):
        return _read(folder)["id"]
    require_plain_folder(folder, to_write=True)
    with lock_of(folder) if is_shared else nullcontext():
        with suppress(FileNotFoundError, RunFolderError):
            return _read(folder)["id"]
        drawn = uuid.uuid4().hex
        write_json(RunFolder(folder).tracker, {"id": drawn, "sent": {}})
        return drawn


def derived_id(folder: Path, kind: str) -> str:
    """The id of what groups the runs of a folder that is a run itself."""
    return hashlib.sha256(f"{id_of(folder, is_shared=True)} {kind}".encode()).hexdigest()[:32]


def sent_of(folder: Path, tracker: str) -> Sent:
    """What was sent of a folder to such a tracker; nothing where it is not known."""
    with suppress(FileNotFoundError, RunFolderError):
        if (found := _read(folder)["sent"].get(tracker)) is not None:
            return Sent(found["epoch"], found["status"])
    return Sent()


def note_sent(folder: Path, tracker: str, sent: Sent) -> None:
    """Records what was sent. Raises DiskError, and RunFolderError where the folder has no record."""
    record = _read(folder)
    record["sent"][tracker] = {"epoch": sent.epoch, "status": sent.status}  # type: ignore[typeddict-item]
    write_json(RunFolder(folder).tracker, record)


def lock_of(folder: Path) -> FileLock:
    """Keeps the jobs of one folder apart while they look for their parent and make it."""
    return FileLock(folder / ".tracker.lock", timeout=LOCK_SECONDS, thread_local=False)


def _read(folder: Path) -> TrackerRecord:
    return read_json(RunFolder(folder).tracker, TrackerRecord)
