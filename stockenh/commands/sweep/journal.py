"""The journal of a sweep's study, whose lines are checked before Optuna replays them.

The file may come from somebody else, and Optuna takes every line as its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pydantic import Field
from typing_extensions import TypedDict

from stockenh.errors import ConfigError, RunFolderError
from stockenh.storage.run_folder import AS_WRITTEN
from stockenh.storage.untrusted import MIB, bounded, read_bytes, require_few_parts, typed

MOST_BYTES = 256 * MIB  # some 100,000 trials
MOST_PARTS = 12_000_000  # values of at most 100 bytes each in memory
Id = Annotated[int, Field(ge=0, lt=2**31)]
When = Annotated[str, Field(pattern=r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d")]


class Line(TypedDict, total=False):
    """A line of the journal: an operation on the study or on one of its trials."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]

    op_code: Annotated[int, Field(ge=0, le=9)]
    worker_id: str
    study_id: Id
    study_name: str
    directions: Annotated[list[Annotated[int, Field(ge=0, le=2)]], Field(max_length=1)]
    trial_id: Id
    state: Annotated[int, Field(ge=0, le=4)]
    value: float | None
    values: Annotated[list[float], Field(min_length=1, max_length=1)] | None
    datetime_start: When | None
    datetime_complete: When | None
    param_name: str
    param_value_internal: float
    distribution: str
    distributions: dict[str, str]
    params: dict[str, float]
    step: Id
    intermediate_value: float
    intermediate_values: dict[str, float]
    user_attr: dict[str, Any]
    user_attrs: dict[str, Any]
    system_attr: dict[str, Any]
    system_attrs: dict[str, Any]


# The keys that Optuna reads of each operation (optuna.storages.journal).
_NEEDED = (
    ("study_name", "directions"),
    ("study_id",),
    ("study_id", "user_attr"),
    ("study_id", "system_attr"),
    ("study_id",),
    ("trial_id", "param_name", "param_value_internal", "distribution"),
    ("trial_id", "state", "values"),
    ("trial_id", "step", "intermediate_value"),
    ("trial_id", "user_attr"),
    ("trial_id", "system_attr"),
)


def open_journal(path: Path) -> JournalStorage:
    """The storage of a journal, which is made where there is none. Raises ConfigError where it is damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # unlike Optuna's own locks, a killed process does not leave this one behind
    lock: Any = FileLock(path.with_name(f".{path.name}.lock"), poll_interval=0.005)
    try:
        with lock:
            _check(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except Exception as error:  # whatever replaying a damaged journal raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path} is damaged and can't be read as a study: {reason}") from None


def _check(path: Path) -> None:
    """Raises RunFolderError or ValueError at a line that Optuna did not write.

    Cuts off what a full disk left of a line, which would spoil the line after it.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        return
    require_few_parts(content, MOST_PARTS)
    whole = content.rfind(b"\n") + 1
    for number, text in enumerate(content[:whole].splitlines(), 1):
        line = typed(Line, bounded(json.loads(text)), f"line {number}")
        needed = {"op_code", "worker_id", *(_NEEDED[line["op_code"]] if "op_code" in line else ())}
        if missing := sorted(needed - line.keys()):
            raise RunFolderError(f"line {number} lacks {missing[0]}")
        if line.get("state") == TrialState.COMPLETE and line.get("values") is None:
            raise RunFolderError(f"line {number}: a complete trial has no value")
    if whole < len(content):
        with path.open("rb+") as file:
            file.truncate(whole)
