"""Where Python has no fcntl, no resource and fewer signals, as on Windows."""

import subprocess
import sys
import time

import pytest

from stockenh.errors import RunFolderError
from stockenh.storage import files
from stockenh.storage.files import (
    LOCK,
    WorkerLock,
    is_locked,
    lock_folder,
    remove_parts,
    temporary_folder,
    write_atomic,
)

# What third parties import by platform is imported before: on Linux they may need these modules.
HIDDEN = """
import importlib, os, pkgutil, signal, sys, warnings
import filelock, psutil, torch
sys.modules.pop("fcntl", None), sys.modules.pop("resource", None)

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ImportError(f"no {name} here")

sys.meta_path.insert(0, Hidden())
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL"):
    delattr(signal, name)
for name in ("O_NOFOLLOW", "O_NONBLOCK", "setsid", "getloadavg"):
    delattr(os, name)
import hydra_plugins.stockenh, stockenh

for module in pkgutil.walk_packages(stockenh.__path__, "stockenh."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

from stockenh.config.catalog import roots
from stockenh.config.compose import compose

for root in sorted({*roots()} - {"data_check"}):
    compose([], root)
print("all of", len(roots()))
"""


@pytest.fixture
def without_fcntl(monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)


@pytest.mark.usefixtures("without_fcntl")
def test_files_are_written_whole_and_others_locks_are_seen(tmp_path):
    path = tmp_path / "made" / "file"
    for content in (b"one", b"two"):
        write_atomic(path, content)
        assert path.read_bytes() == content and [p.name for p in path.parent.iterdir()] == ["file"]
    assert not is_locked(tmp_path / LOCK) and not (tmp_path / LOCK).exists()
    with lock_folder(tmp_path, "trains there"):
        assert is_locked(tmp_path / LOCK)
        with pytest.raises(RunFolderError, match="another process trains there"):
            lock_folder(tmp_path, "trains there").__enter__()
    assert not is_locked(tmp_path / LOCK)
    lock = WorkerLock(tmp_path / "workers")
    assert is_locked(lock.path)
    lock.release()


@pytest.mark.usefixtures("without_fcntl")
def test_a_link_is_no_lock_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / LOCK).symlink_to("theirs")
    assert not is_locked(tmp_path / LOCK) and (tmp_path / "theirs").read_text() == "kept"


@pytest.mark.usefixtures("without_fcntl")
def test_a_folder_that_may_be_a_living_process_s_stays_for_a_day(tmp_path, monkeypatch):
    with temporary_folder(tmp_path) as folder:
        (folder / "part").touch()
        remove_parts(tmp_path)
        assert (folder / "part").exists()
        now = time.time()
        monkeypatch.setattr("time.time", lambda: now + 25 * 60 * 60)
        remove_parts(tmp_path)
        assert not folder.exists()
    (tmp_path / ".file.0123.part").touch()
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_everything_is_imported_and_composed(tmp_path):
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("all of ")
