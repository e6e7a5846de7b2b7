"""Lock files of folders and of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockenh.errors import RunFolderError
from stockenh.storage.files import LOCK, WorkerLock, is_locked, lock_folder


def test_only_one_is_in_a_folder_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not is_locked(folder / LOCK)
    with lock_folder(folder, "trains there"):
        assert is_locked(folder / LOCK)
        with pytest.raises(RunFolderError, match=f"{folder}: another process trains there"):
            lock_folder(folder, "trains there").__enter__()
    assert not is_locked(folder / LOCK)
    with lock_folder(folder, "trains there"):
        pass


def test_a_worker_s_lock_is_its_own_and_goes_with_it(tmp_path: Path) -> None:
    one, two = WorkerLock(tmp_path / "workers"), WorkerLock(tmp_path / "workers")
    assert one.path != two.path and is_locked(one.path) and is_locked(two.path)
    one.release()
    assert not one.path.exists() and is_locked(two.path)
    two.release()
