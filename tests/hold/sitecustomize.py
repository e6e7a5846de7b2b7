"""Makes a process wait just before it writes a file: see Hold in tests/processes.py.

Python imports this by itself where PYTHONPATH has this folder, and so do workers that a search spawns.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

_HOLD = json.loads(os.environ["HOLD"])
_writes = 0


def _epochs(path: Path) -> int:
    """The lines of the run's metrics.jsonl, which lies beside the file or a folder above it."""
    found = (folder / "metrics.jsonl" for folder in path.parents[:2])
    return max((len(file.read_bytes().splitlines()) for file in found if file.exists()), default=0)


def _wait() -> None:
    """Returns when the test lets all go, or at a signal that this process handles."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.set_wakeup_fd(writable)
    (Path(_HOLD["folder"]) / str(os.getpid())).touch()
    released = Path(_HOLD["folder"]) / "released"
    while not released.exists() and not select.select([readable], [], [], 0.02)[0]:
        pass
    signal.set_wakeup_fd(before)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    global _writes
    if event == "os.rename":
        path = arguments[1]
    elif event == "open" and arguments[1] == "a":
        path = arguments[0]
    else:
        return
    if isinstance(path, int):  # an open file
        return
    if os.path.basename(os.fspath(path)) == _HOLD["file"] and _epochs(Path(path)) >= _HOLD["epochs"]:
        _writes += 1
        if _writes == _HOLD["write"]:
            _wait()


sys.addaudithook(_watch)
