from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from random_bars import as_stored, plain_windows
from random_walks import walks

from stockenh.data.cache import DiskCache
from stockenh.data.prices import NoAugment
from stockenh.data.windows import BarWindows, StoredWindows, Windows
from stockenh.embedding import NoEmbedding, PriceEmbedding, StoredEmbedding, compute
from stockenh.embedding.compute import embed
from stockenh.embedding.kernel import KernelEmbedding
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
CALLS: list[int] = []


@dataclass(frozen=True)
class Closes(PriceEmbedding):
    """The last `width` normalised closes, times `factor`; it records the sizes of its batches."""

    width: int = 3
    factor: float = 1.0
    storage: ClassVar[torch.dtype] = torch.float16

    def width_of(self, windows: Windows) -> int:
        return self.width

    def transform(self, x_price: torch.Tensor) -> torch.Tensor:
        CALLS.append(len(x_price))
        return x_price[:, -self.width :, 3] * self.factor


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def in_batches_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PriceEmbedding, "batch", lambda self, device: size)


def bar_windows(bars: int = 40, lookback: int = 12) -> BarWindows:
    return plain_windows(walks(bars, 1), lookback)


def stored_windows() -> StoredWindows:
    return as_stored(bar_windows(), np.full((29, 2), 7, np.float32))


def test_every_window_has_the_embedding_it_has_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_batches_of(7, monkeypatch)
    data, kernel = bar_windows(), KernelEmbedding(width=16)
    found = embed(data, kernel, DiskCache(tmp_path), CPU)
    prices = data.prices(CPU)
    alone = [kernel.transform(prices.gather(torch.tensor([row]), NoAugment())) for row in range(len(data))]
    assert len(data) == 29
    np.testing.assert_array_equal(found, torch.cat(alone).half().numpy())


def test_it_is_computed_once_in_chunks_and_kept_in_its_own_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches_of(10, monkeypatch)
    first = embed(bar_windows(), Closes(), DiskCache(tmp_path), CPU)
    assert CALLS == [10, 10, 9]
    second = embed(bar_windows(), Closes(), DiskCache(tmp_path), CPU)
    assert CALLS == [10, 10, 9]
    assert first.dtype == second.dtype == np.float16
    np.testing.assert_array_equal(first, second)


def test_other_bars_settings_or_windows_are_embedded_anew(tmp_path: Path) -> None:
    store = DiskCache(tmp_path)
    changed = bar_windows()
    ohlcv = changed.bars.ohlcv.copy()
    ohlcv[-1, 4] += 1
    for data, settings in (
        (bar_windows(), Closes()),
        (bar_windows(bars=41), Closes()),
        (bar_windows(), Closes(width=2)),
        (bar_windows(), Closes(factor=0.5)),
        (bar_windows(lookback=14), Closes()),
        (replace(changed, bars=replace(changed.bars, ohlcv=ohlcv)), Closes()),
    ):
        before = len(CALLS)
        assert embed(data, settings, store, CPU).shape == (len(data), settings.width)
        assert len(CALLS) == before + 1


def test_no_embedding_and_stored_ones_need_no_cache(tmp_path: Path) -> None:
    assert embed(bar_windows(), NoEmbedding(), DiskCache(tmp_path), CPU).shape == (29, 0)
    assert NoEmbedding().rows(bar_windows(), CPU)(torch.arange(4)).shape == (4, 0)
    data = stored_windows()
    assert embed(data, StoredEmbedding(), DiskCache(tmp_path), CPU) is data.embedding
    assert list(tmp_path.iterdir()) == []


def test_stored_windows_may_be_embedded_like_others(tmp_path: Path) -> None:
    kernel = KernelEmbedding(width=16)
    found = embed(stored_windows(), kernel, DiskCache(tmp_path), CPU)
    np.testing.assert_array_equal(found, embed(bar_windows(), kernel, DiskCache(None), CPU))


def test_bars_bring_none_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embedding=stored needs data=windows"):
        embed(bar_windows(), StoredEmbedding(), DiskCache(tmp_path), CPU)


class Killed(BaseException):
    """Ends a computation like a kill."""


def killed_after(count: int, done: int, total: int) -> None:
    if done >= count:
        raise Killed


def test_a_killed_computation_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_batches_of(5, monkeypatch)
    monkeypatch.setattr(compute, "SAVE_SECONDS", 0.0)
    data, store, seen = bar_windows(), DiskCache(tmp_path), []
    with pytest.raises(Killed):
        embed(data, Closes(), store, CPU, lambda done, total: killed_after(17, done, total))
    assert CALLS == [5, 5, 5, 5]
    found = embed(data, Closes(), store, CPU, lambda done, total: seen.append((done, total)))
    assert CALLS == [5, 5, 5, 5, 5, 5, 4]  # the fourth batch was computed but not stored yet
    assert seen == [(15, 29), (20, 29), (25, 29), (29, 29)]
    np.testing.assert_array_equal(found, embed(data, Closes(), DiskCache(None), CPU))
    assert [file.name for file in (tmp_path / "embedding").iterdir() if file.suffix == ".parts"] == []
    assert len(list((tmp_path / "embedding").iterdir())) == 1


def test_what_is_left_of_a_computation_may_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches_of(5, monkeypatch)
    monkeypatch.setattr(compute, "SAVE_SECONDS", 0.0)
    data, store = bar_windows(), DiskCache(tmp_path)
    with pytest.raises(Killed):
        embed(data, Closes(), store, CPU, lambda done, total: killed_after(29, done, total))
    parts = next((tmp_path / "embedding").glob("*.parts"))
    assert sorted(file.name for file in parts.iterdir()) == ["0.npy", "10.npy", "15.npy", "20.npy", "5.npy"]
    (parts / "5.npy").write_bytes((parts / "5.npy").read_bytes()[:-3])
    np.save(parts / "10.npy", np.zeros((5, 4), np.float16))
    np.save(parts / "27.npy", np.zeros((5, 3), np.float16))
    np.save(parts / "-5.npy", np.zeros((5, 3), np.float16))
    CALLS.clear()
    found = embed(data, Closes(), store, CPU)
    assert CALLS == [5, 5, 4]
    np.testing.assert_array_equal(found, embed(data, Closes(), DiskCache(None), CPU))


def test_short_computations_leave_no_parts(tmp_path: Path) -> None:
    written = []
    store = DiskCache(tmp_path)
    store.parts("embedding", "key").clear()
    embed(bar_windows(), Closes(), store, CPU, lambda *_: written.extend(tmp_path.glob("*/*.parts")))
    assert written == []


def test_shuffling_needs_no_embedding_of_its_own(tmp_path: Path) -> None:
    kernel = KernelEmbedding(width=16)
    plain = embed(bar_windows(), kernel, DiskCache(tmp_path), CPU)
    shuffled = embed(bar_windows(), replace(kernel, shuffle=True), DiskCache(tmp_path), CPU)
    np.testing.assert_array_equal(plain, shuffled)
    assert len(list((tmp_path / "embedding").iterdir())) == 1
