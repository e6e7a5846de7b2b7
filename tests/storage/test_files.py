"""Atomic files, and the locks of folders and workers."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stockenh.errors import RunFolderError
from stockenh.storage import files
from stockenh.storage.files import (
    LOCK,
    DiskError,
    LogFile,
    WorkerLock,
    append_line,
    is_locked,
    lock_folder,
    write_atomic,
    write_json,
)
from stockenh.storage.run_folder import RunFolder

HOLD = """
import sys
from pathlib import Path
from stockenh.storage.files import WorkerLock, lock_folder
lock = WorkerLock(Path(sys.argv[1]) / "workers")
with lock_folder(Path(sys.argv[1]), "trains there"):
    print(lock.path, flush=True)
    sys.stdin.read()
"""


def test_only_one_is_in_a_folder_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not is_locked(folder / LOCK)
    for _ in range(2):
        with lock_folder(folder, "trains there"):
            assert is_locked(folder / LOCK)
            with pytest.raises(RunFolderError, match=f"{folder}: another process trains there"):
                lock_folder(folder, "trains there").__enter__()
        assert not is_locked(folder / LOCK)


def test_a_probe_at_the_same_moment_is_no_reason_to_refuse_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOCK).touch()
    probe = (tmp_path / LOCK).open()
    fcntl.flock(probe, fcntl.LOCK_SH)
    monkeypatch.setattr(files, "_LOCK_SECONDS", 60.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: probe.close())  # between two attempts
    with lock_folder(tmp_path, "trains there"):
        assert probe.closed


def test_a_workers_lock_is_its_own_and_goes_with_it(tmp_path: Path) -> None:
    one, two = WorkerLock(tmp_path / "workers"), WorkerLock(tmp_path / "workers")
    assert one.path != two.path and is_locked(one.path) and is_locked(two.path)
    one.release()
    assert not one.path.exists() and is_locked(two.path)
    two.release()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    worker = Path(process.stdout.readline().strip())
    assert is_locked(worker) and is_locked(tmp_path / LOCK)
    process.kill()
    process.communicate()
    assert worker.exists() and not is_locked(worker) and not is_locked(tmp_path / LOCK)
    with lock_folder(tmp_path, "trains there"):
        pass


def test_probing_and_locking_change_no_file_behind_a_link(tmp_path: Path) -> None:
    """A folder may be untrusted: its lock file may be a link to a file of the user's."""
    own = tmp_path / "own.txt"
    own.write_text("mine")
    (tmp_path / LOCK).symlink_to(own)
    assert not is_locked(tmp_path / LOCK)
    with pytest.raises(OSError):
        lock_folder(tmp_path, "trains there").__enter__()
    assert own.read_text() == "mine"


def test_a_runs_own_parts_go_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / ".a folder.part").mkdir(parents=True)
    (run / "mine.part").write_text("mine")
    (run / ".a link.part").symlink_to(run / "mine.part")
    own = run / ".config.yaml.x1y2.part"
    own.write_text("half")
    with RunFolder(run).lock():
        assert not own.exists()
    assert (run / "mine.part").read_text() == "mine"
    assert (run / ".a folder.part").is_dir() and (run / ".a link.part").is_symlink()


def test_a_file_is_replaced_whole_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})
    path.parent.joinpath("plain").touch()
    assert path.stat().st_mode == path.parent.joinpath("plain").stat().st_mode
    with path.open() as before:
        write_atomic(path, b"other")
        assert before.read() == '{\n  "a": 1\n}\n'
    assert path.read_bytes() == b"other"
    assert sorted(os.listdir(path.parent)) == ["a.json", "plain"]


def test_a_write_that_fails_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: write_atomic(path, b"2"), lambda: append_line(tmp_path / "log", "2")):
        with pytest.raises(DiskError, match="can't be written: No space left on device"):
            write()
    assert path.read_text() == "1\n" and sorted(os.listdir(tmp_path)) == ["a.json", "log"]


def test_figures_that_are_not_finite_are_null(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [math.inf, -math.inf, 1.5, {"c": np.float64("nan")}], "d": (1, "nan", True)}
    write_json(tmp_path / "a.json", value)
    run = RunFolder(tmp_path)
    run.append_metrics({"epoch": 1, **value})
    expected = {"a": None, "b": [None, None, 1.5, {"c": None}], "d": [1, "nan", True]}
    assert run.read_json(tmp_path / "a.json") == expected
    run.metrics.write_text(run.metrics.read_text() + '{"epoch": 2, "val_loss": NaN}\n')
    assert run.metric_lines() == [{"epoch": 1, **expected}, {"epoch": 2, "val_loss": None}]


def test_a_log_on_a_full_disk_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.log").symlink_to("/dev/full")
    for path in (tmp_path / "run.log", tmp_path / "missing" / "run.log"):
        handler = LogFile(path)
        for _ in range(3):
            handler.handle(logging.LogRecord("x", logging.INFO, "x.py", 1, "a record", None, None))
        handler.close()
    assert capfd.readouterr().err == ""


def test_a_folder_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="can't be written"):
        write_atomic(tmp_path / "file" / "c.pt", b"x")
    with pytest.raises(DiskError, match="can't be written"):
        append_line(tmp_path / "missing" / "m.jsonl", "x")
