import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from traps import Trap

from stockenh.data import cache as cache_module
from stockenh.data.cache import DiskCache, default_root, key_of, release_pages, write_npy
from stockenh.data.features import FeatureSettings
from stockenh.errors import ConfigError
from stockenh.storage.files import lock_folder, write_atomic

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], np.int64), "empty": np.empty((0, 5))}
FULL = OSError(28, "No space left on device")


@pytest.fixture
def compute():
    """The computation of an entry, which counts its calls."""
    return Mock(return_value=dict(ARRAYS))


@pytest.fixture
def anything_is_large(monkeypatch):
    monkeypatch.setattr(cache_module, "LARGE", 0)


def assert_whole(found):
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype


def get(root, compute, kind="kind", key="key"):
    """Gets an entry, found or computed, and checks its arrays."""
    found = DiskCache(root).arrays(kind, key, compute)
    assert_whole(found)
    return found


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def is_mapped(folder):
    return f"{folder}/" in Path("/proc/self/maps").read_text()


def test_a_hit_computes_nothing_and_may_be_written_to(tmp_path, compute):
    get(tmp_path, compute)["a"][0, 0] = 99
    get(tmp_path, compute)
    assert compute.call_count == 1
    get(tmp_path, compute, key="other")
    get(tmp_path, compute, kind="sort")
    assert compute.call_count == 3


def test_without_a_root_nothing_is_kept(tmp_path, monkeypatch, compute):
    monkeypatch.chdir(tmp_path)
    get(None, compute)
    get(None, compute)
    assert (compute.call_count, names(tmp_path)) == (2, [])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("a.npy", lambda content: content[:-8]),
        ("a.npy", lambda content: b"\xff" * 200),
        ("a.npy", lambda content: b""),
        ("a.npy", None),
        ("names.txt", lambda content: b"\xff\xfe"),
        ("*", None),
    ],
)
def test_a_damaged_entry_is_computed_again_and_mended(tmp_path, caplog, compute, name, spoil):
    get(tmp_path, compute)
    for file in list((tmp_path / "kind" / "key").glob(name)):
        file.write_bytes(spoil(file.read_bytes())) if spoil else file.unlink()
    for _ in range(2):
        get(tmp_path, compute)
        assert compute.call_count == 2 and "can't be read" in caplog.text


def test_a_pickle_in_the_cache_is_never_loaded(tmp_path, compute):
    get(tmp_path, compute)
    hostile, mark = np.array([Trap(tmp_path / "mark")], dtype=object), tmp_path / "mark"
    np.save(tmp_path / "kind" / "key" / "a.npy", hostile, allow_pickle=True)
    get(tmp_path, compute)
    assert compute.call_count == 2 and not mark.exists()
    np.save(tmp_path / "trap.npy", hostile, allow_pickle=True)
    np.load(tmp_path / "trap.npy", allow_pickle=True)
    assert mark.exists(), "the trap itself works"


def test_a_root_that_cannot_be_written_is_reported_once(tmp_path, caplog, compute):
    (tmp_path / "file").write_text("in the way")
    lines = []
    store = DiskCache(tmp_path / "file", lines.append)
    for key in ("one", "two"):
        assert_whole(store.arrays("kind", key, compute))
    (line,) = lines
    assert line.startswith(f"cache {tmp_path / 'file'} can't be written (")
    assert (compute.call_count, caplog.text.count("can't be written")) == (2, 2)


def test_a_full_disk_leaves_no_part_of_an_entry(tmp_path, monkeypatch, caplog, compute):
    def full(file, array):
        if file.name.endswith("b.npy"):
            raise FULL
        file.write(array.tobytes())

    monkeypatch.setattr(cache_module, "write_npy", full)
    get(tmp_path, compute)
    assert "No space left" in caplog.text and names(tmp_path / "kind") == []


def test_an_entry_appears_whole(tmp_path, monkeypatch, compute):
    entry, seen, rename = tmp_path / "kind" / "key", [], Path.rename

    def watched(self, target):
        seen.append((entry.exists(), names(self)))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    get(tmp_path, compute)
    assert seen == [(False, ["a.npy", "b.npy", "empty.npy", "names.txt"])]
    assert names(tmp_path / "kind") == ["key"]


def test_of_two_that_compute_at_once_the_first_entry_stays(tmp_path, compute):
    get(tmp_path, lambda: dict(get(tmp_path, compute)))
    assert names(tmp_path / "kind") == ["key"]


HALF_WRITTEN = """
import sys, time
from pathlib import Path
from stockenh.storage.files import temporary_folder
import stockenh.storage.files as files
root = Path(sys.argv[1])
if sys.argv[2] == "entry":
    with temporary_folder(root / "features") as folder:
        (folder / "a.npy").write_text("half")
        print(flush=True)
        time.sleep(900)
else:
    def stuck(descriptor):
        print(flush=True)
        time.sleep(900)
    files.os.fsync = stuck
    files.write_atomic(root / sys.argv[2], b"half")
"""


@pytest.mark.parametrize(
    "written", ["entry", "embedding/key.parts/0.npy", "yahoo/key/.parts-2024-01-31/a.parquet"]
)
def test_what_is_half_written_goes_once_its_process_is_dead(tmp_path, written):
    arguments = [sys.executable, "-c", HALF_WRITTEN, str(tmp_path), written]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        before = files_of(tmp_path)
        DiskCache(tmp_path).clean()
        assert files_of(tmp_path) == before and len(before) == 1
        writer.kill()
    DiskCache(tmp_path).clean()
    assert files_of(tmp_path) == [] and not list(tmp_path.rglob(".part-*"))


def test_entries_and_parts_that_may_be_continued_stay_until_they_are_old(tmp_path, compute):
    get(tmp_path, compute)
    parts, day = tmp_path / "embedding" / "key.parts", tmp_path / "yahoo" / "key" / ".parts-2024-01-31"
    DiskCache(tmp_path).parts("embedding", "key").write(0, np.ones(3))
    write_atomic(day / "a.parquet", b"x")
    (tmp_path / "a link").symlink_to(tmp_path / "kind")
    before = files_of(tmp_path)
    DiskCache(tmp_path).clean()
    assert files_of(tmp_path) == before
    for folder in (parts, day):
        os.utime(folder, (0, 0))
    with lock_folder(day.parent, "downloads"):
        DiskCache(tmp_path).clean()
        assert day.exists() and not parts.exists()
    DiskCache(tmp_path).clean()
    assert not day.exists()
    get(tmp_path, Mock(side_effect=AssertionError))
    DiskCache(tmp_path / "missing").clean()


def test_a_command_cleans_the_cache_before_it_reads(tmp_path, stockenh, small_run):
    left = tmp_path / "features" / ".part-abc"
    left.mkdir(parents=True)
    stockenh("find-lr", *small_run, f"cache_dir={tmp_path}", f"hydra.run.dir={tmp_path / 'out'}")
    assert not left.exists()


def test_keys_follow_every_part():
    other_settings = FeatureSettings(lookback=60), FeatureSettings(timeframes=("1d",))
    keys = [
        key_of("digest", FeatureSettings()),
        *(key_of("digest", settings) for settings in other_settings),
        key_of("digesu", FeatureSettings()),
        key_of("digest"),
        key_of("a", "b"),
        key_of("a', 'b"),
    ]
    assert len(set(keys)) == len(keys) and key_of("digest", FeatureSettings()) == keys[0]


def test_the_root_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("STOCKENH_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "mine"
    monkeypatch.delenv("STOCKENH_CACHE")
    assert default_root() == tmp_path / "xdg" / "stockenh"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "stockenh"
    monkeypatch.setattr(Path, "expanduser", Mock(side_effect=RuntimeError("no home directory")))
    assert default_root() is None
    monkeypatch.setenv("STOCKENH_CACHE", "~/mine")
    with pytest.raises(ConfigError, match=r"~/mine: there is no home folder"):
        default_root()


def test_parts_are_read_back_until_they_are_cleared(tmp_path, caplog):
    parts = DiskCache(tmp_path).parts("kind", "key")
    assert list(parts.read()) == []
    parts.write(10, np.arange(3.0))
    parts.write(0, np.arange(4).reshape(2, 2))
    again = DiskCache(tmp_path).parts("kind", "key")
    assert {first: rows.tolist() for first, rows in again.read()} == {0: [[0, 1], [2, 3]], 10: [0, 1, 2]}
    assert list(DiskCache(tmp_path).parts("kind", "other").read()) == []
    trap = np.array([Trap(tmp_path / "mark")])
    np.save(tmp_path / "kind" / "key.parts" / "20.npy", trap, allow_pickle=True)
    assert sorted(first for first, _ in again.read()) == [0, 10]
    assert "can't be read" in caplog.text and not (tmp_path / "mark").exists()
    again.clear()
    assert names(tmp_path / "kind") == []


def test_parts_that_cannot_be_written_only_warn(tmp_path, caplog):
    nowhere = DiskCache(None).parts("kind", "key")
    nowhere.write(0, np.ones(1))
    nowhere.clear()
    assert list(nowhere.read()) == [] and caplog.text == ""
    (tmp_path / "kind").write_text("in the way")
    DiskCache(tmp_path).parts("kind", "key").write(0, np.ones(1))
    assert "can't be written" in caplog.text


@pytest.mark.usefixtures("anything_is_large")
def test_a_large_scratch_is_an_unnamed_file_that_keeps_what_was_written(tmp_path):
    array = DiskCache(tmp_path / "cache").scratch((1000, 16), np.float32)
    assert array.shape == (1000, 16) and array.dtype == np.float32
    array[:] = np.arange(16000).reshape(1000, 16)
    release_pages(array)
    np.testing.assert_array_equal(array, np.arange(16000).reshape(1000, 16))
    assert names(tmp_path / "cache") == [] and is_mapped(tmp_path / "cache")
    del array
    assert not is_mapped(tmp_path / "cache")


def test_a_small_scratch_is_memory(tmp_path):
    array = DiskCache(tmp_path).scratch((10, 4), np.float16)
    assert array.shape == (10, 4) and not is_mapped(tmp_path)
    release_pages(array)  # has none to give


@pytest.mark.usefixtures("anything_is_large")
def test_a_full_disk_leaves_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", Mock(side_effect=FULL))
    for root in (tmp_path, None):
        assert DiskCache(root).scratch((3, 2), np.float32).shape == (3, 2)


@pytest.mark.parametrize("shape", [(7, 3), (7,), (0, 3), (5, 0), (4, 2, 3), ()])
@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.bool_])
def test_a_file_in_portions_is_the_file_of_numpy(shape, dtype, monkeypatch):
    monkeypatch.setattr(cache_module, "PORTION", 20)
    array = np.asarray(np.random.default_rng(0).integers(0, 9, shape)).astype(dtype)
    whole, portions = io.BytesIO(), io.BytesIO()
    np.save(whole, array)
    write_npy(portions, array)
    assert portions.getvalue() == whole.getvalue()


def test_columns_side_by_side_are_written_as_rows():
    array, file = np.asfortranarray(np.arange(12.0).reshape(4, 3)), io.BytesIO()
    write_npy(file, array)
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), array)
