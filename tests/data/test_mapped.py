from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from stockenh.data import cache as mapped
from stockenh.data.cache import DiskCache, release_pages, scratch, write_npy


@pytest.fixture
def anything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "LARGE", 0)


@pytest.mark.usefixtures("anything_is_large")
def test_a_large_scratch_is_an_unnamed_file_that_keeps_what_was_written(tmp_path: Path) -> None:
    array = scratch(tmp_path / "cache", (1000, 16), np.float32)
    assert array.shape == (1000, 16) and array.dtype == np.float32
    array[:] = np.arange(16000).reshape(1000, 16)
    release_pages(array)
    np.testing.assert_array_equal(array, np.arange(16000).reshape(1000, 16))
    assert list((tmp_path / "cache").iterdir()) == []
    assert f"{tmp_path}/cache/" in Path("/proc/self/maps").read_text()
    del array
    assert f"{tmp_path}/cache/" not in Path("/proc/self/maps").read_text()


def test_a_small_scratch_is_memory(tmp_path: Path) -> None:
    array = scratch(tmp_path, (10, 4), np.float16)
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
    monkeypatch.setattr(mapped, "PORTION", 20)
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
