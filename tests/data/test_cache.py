from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from stockenh.data import cache as cache_module
from stockenh.data.cache import DiskCache, default_root, key_of, release_pages, write_npy
from stockenh.data.features import FeatureSettings
from stockenh.errors import ConfigError

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], np.int64), "empty": np.empty((0, 5))}


@dataclass
class Counted:
    """A computation that knows how often it ran."""

    calls: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=lambda: dict(ARRAYS))

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return self.arrays


def same(found: dict[str, np.ndarray]) -> bool:
    return found.keys() == ARRAYS.keys() and all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype
        for name, array in ARRAYS.items()
    )


class Trap:
    """A hostile pickle: it leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_hit_computes_nothing(tmp_path: Path) -> None:
    compute = Counted()
    assert same(DiskCache(tmp_path).arrays("kind", "key", compute))
    assert same(DiskCache(tmp_path).arrays("kind", "key", compute))
    assert compute.calls == 1
    DiskCache(tmp_path).arrays("kind", "other", compute)
    DiskCache(tmp_path).arrays("sort", "key", compute)
    assert compute.calls == 3


def test_without_a_root_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compute = Counted()
    assert same(DiskCache(None).arrays("kind", "key", compute))
    assert same(DiskCache(None).arrays("kind", "key", compute))
    assert compute.calls == 2
    assert list(tmp_path.iterdir()) == []


def test_found_arrays_may_be_written_to_and_the_entry_stays(tmp_path: Path) -> None:
    compute = Counted()
    DiskCache(tmp_path).arrays("kind", "key", compute)["a"][0, 0] = 99
    assert same(DiskCache(tmp_path).arrays("kind", "key", compute))


def truncated(entry: Path) -> None:
    (entry / "a.npy").write_bytes((entry / "a.npy").read_bytes()[:-8])


def emptied(entry: Path) -> None:
    for file in entry.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        emptied,
        lambda entry: (entry / "a.npy").write_bytes(b"\xff" * 200),
        lambda entry: (entry / "a.npy").write_bytes(b""),
        lambda entry: (entry / "a.npy").unlink(),
        lambda entry: (entry / "names.txt").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_entry_is_computed_again_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object]
) -> None:
    compute, store = Counted(), DiskCache(tmp_path)
    store.arrays("kind", "key", compute)
    spoil(tmp_path / "kind" / "key")
    assert same(store.arrays("kind", "key", compute))
    assert compute.calls == 2
    assert "can't be read" in caplog.text
    assert same(store.arrays("kind", "key", compute))
    assert compute.calls == 2


def test_a_pickle_in_the_cache_is_never_loaded(tmp_path: Path) -> None:
    compute, store = Counted(), DiskCache(tmp_path)
    store.arrays("kind", "key", compute)
    hostile = np.array([Trap(tmp_path / "mark")], dtype=object)
    np.save(tmp_path / "kind" / "key" / "a.npy", hostile, allow_pickle=True)
    assert same(store.arrays("kind", "key", compute))
    assert compute.calls == 2
    assert not (tmp_path / "mark").exists()
    np.save(tmp_path / "trap.npy", hostile, allow_pickle=True)
    np.load(tmp_path / "trap.npy", allow_pickle=True)
    assert (tmp_path / "mark").exists(), "the trap itself works"


def test_a_root_that_cannot_be_written_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    lines: list[str] = []
    compute, store = Counted(), DiskCache(tmp_path / "file", lines.append)
    for key in ("one", "two"):
        assert same(store.arrays("kind", key, compute))
    (line,) = lines
    assert line.startswith(f"cache {tmp_path / 'file'} can't be written (")
    assert (compute.calls, caplog.text.count("can't be written")) == (2, 2)


def test_a_full_disk_leaves_no_part_of_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: BinaryIO, array: np.ndarray) -> None:
        if file.name.endswith("b.npy"):
            raise OSError(28, "No space left on device")
        file.write(array.tobytes())

    monkeypatch.setattr(cache_module, "write_npy", full)
    assert same(DiskCache(tmp_path).arrays("kind", "key", Counted()))
    assert "No space left" in caplog.text
    assert list((tmp_path / "kind").iterdir()) == []


def test_an_entry_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, seen = tmp_path / "kind" / "key", []
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        seen.append((entry.exists(), sorted(file.name for file in self.iterdir())))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    DiskCache(tmp_path).arrays("kind", "key", Counted())
    assert seen == [(False, ["a.npy", "b.npy", "empty.npy", "names.txt"])]
    assert sorted(file.name for file in (tmp_path / "kind").iterdir()) == ["key"]


def test_of_two_that_compute_at_once_the_first_entry_stays(tmp_path: Path) -> None:
    store, inner = DiskCache(tmp_path), Counted()

    def slow() -> dict[str, np.ndarray]:
        store.arrays("kind", "key", inner)
        return dict(ARRAYS)

    assert same(store.arrays("kind", "key", slow))
    assert [file.name for file in (tmp_path / "kind").iterdir()] == ["key"]


def test_keys_follow_every_part() -> None:
    keys = [
        key_of("digest", FeatureSettings()),
        key_of("digest", FeatureSettings(lookback=60)),
        key_of("digest", FeatureSettings(timeframes=("1d",))),
        key_of("digesu", FeatureSettings()),
        key_of("digest"),
        key_of("a", "b"),
        key_of("a', 'b"),
    ]
    assert len(set(keys)) == len(keys) and key_of("digest", FeatureSettings()) == keys[0]


def test_the_root_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STOCKENH_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "mine"
    monkeypatch.delenv("STOCKENH_CACHE")
    assert default_root() == tmp_path / "xdg" / "stockenh"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "stockenh"


def test_without_a_home_folder_there_is_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("STOCKENH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_root() is None
    monkeypatch.setenv("STOCKENH_CACHE", "~/mine")
    with pytest.raises(ConfigError, match=r"~/mine: there is no home folder for its ~"):
        default_root()


def test_parts_are_read_back_until_they_are_cleared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = DiskCache(tmp_path).parts("kind", "key")
    assert list(parts.read()) == []
    parts.write(10, np.arange(3.0))
    parts.write(0, np.arange(4).reshape(2, 2))
    again = DiskCache(tmp_path).parts("kind", "key")
    assert {first: rows.tolist() for first, rows in again.read()} == {0: [[0, 1], [2, 3]], 10: [0, 1, 2]}
    trap = np.array([Trap(tmp_path / "mark")])
    np.save(tmp_path / "kind" / "key.parts" / "20.npy", trap, allow_pickle=True)
    assert sorted(first for first, _ in again.read()) == [0, 10]
    assert "can't be read" in caplog.text
    assert not (tmp_path / "mark").exists()
    again.clear()
    assert list((tmp_path / "kind").iterdir()) == []


def test_parts_of_another_entry_or_without_a_root_are_not_seen(tmp_path: Path) -> None:
    DiskCache(tmp_path).parts("kind", "key").write(0, np.ones(1))
    assert list(DiskCache(tmp_path).parts("kind", "other").read()) == []
    nowhere = DiskCache(None).parts("kind", "key")
    nowhere.write(0, np.ones(1))
    nowhere.clear()
    assert list(nowhere.read()) == []


def test_parts_that_cannot_be_written_only_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kind").write_text("in the way")
    DiskCache(tmp_path).parts("kind", "key").write(0, np.ones(1))
    assert "can't be written" in caplog.text


@pytest.fixture
def anything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "LARGE", 0)


@pytest.mark.usefixtures("anything_is_large")
def test_a_large_scratch_is_an_unnamed_file_that_keeps_what_was_written(tmp_path: Path) -> None:
    array = DiskCache(tmp_path / "cache").scratch((1000, 16), np.float32)
    assert array.shape == (1000, 16) and array.dtype == np.float32
    array[:] = np.arange(16000).reshape(1000, 16)
    release_pages(array)
    np.testing.assert_array_equal(array, np.arange(16000).reshape(1000, 16))
    assert list((tmp_path / "cache").iterdir()) == []
    assert f"{tmp_path}/cache/" in Path("/proc/self/maps").read_text()
    del array
    assert f"{tmp_path}/cache/" not in Path("/proc/self/maps").read_text()


def test_a_small_scratch_is_memory(tmp_path: Path) -> None:
    array = DiskCache(tmp_path).scratch((10, 4), np.float16)
    assert array.shape == (10, 4) and str(tmp_path) not in Path("/proc/self/maps").read_text()
    release_pages(array)  # has none to give


@pytest.mark.usefixtures("anything_is_large")
def test_a_full_disk_leaves_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert DiskCache(tmp_path).scratch((3, 2), np.float32).shape == (3, 2)
    assert DiskCache(None).scratch((3, 2), np.float32).shape == (3, 2)


@pytest.mark.parametrize("shape", [(7, 3), (7,), (0, 3), (5, 0), (4, 2, 3), ()])
@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.bool_])
def test_a_file_in_portions_is_the_file_of_numpy(
    shape: tuple[int, ...], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "PORTION", 20)
    array = np.asarray(np.random.default_rng(0).integers(0, 9, shape)).astype(dtype)
    whole, portions = io.BytesIO(), io.BytesIO()
    np.save(whole, array)
    write_npy(portions, array)
    assert portions.getvalue() == whole.getvalue()


def test_columns_side_by_side_are_written_as_rows() -> None:
    array, file = np.asfortranarray(np.arange(12.0).reshape(4, 3)), io.BytesIO()
    write_npy(file, array)
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), array)
