from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from random_bars import as_stored, plain_windows
from random_walks import walks

from stockenh.data import cache
from stockenh.data.cache import DiskCache
from stockenh.data.prices import NoAugment
from stockenh.embedding import NoEmbedding, PriceEmbedding, StoredEmbedding, compute
from stockenh.embedding.compute import earlier_windows, embed, shuffled
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

    def width_of(self, windows):
        return self.width

    def transform(self, x_price):
        CALLS.append(len(x_price))
        return x_price[:, -self.width :, 3] * self.factor


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@pytest.fixture
def in_batches_of(monkeypatch):
    """Sets the size of batches, each of which is stored when it is done."""
    monkeypatch.setattr(compute, "SAVE_SECONDS", 0.0)
    return lambda size: monkeypatch.setattr(PriceEmbedding, "batch", lambda self, device: size)


def bar_windows(bars=40, lookback=12):
    return plain_windows(walks(bars, 1), lookback)


def stored_windows():
    return as_stored(bar_windows(), np.full((29, 2), 7, np.float32))


def test_every_window_has_the_embedding_it_has_alone(tmp_path, in_batches_of):
    in_batches_of(7)
    data, kernel = bar_windows(), KernelEmbedding(width=16)
    found, prices = embed(data, kernel, DiskCache(tmp_path), CPU), data.prices(CPU)
    alone = [kernel.transform(prices.gather(torch.tensor([row]), NoAugment())) for row in range(29)]
    np.testing.assert_array_equal(found, torch.cat(alone).half().numpy())


def test_it_is_computed_once_in_chunks_and_kept_in_its_own_type(tmp_path, in_batches_of):
    in_batches_of(10)
    first, second = (embed(bar_windows(), Closes(), DiskCache(tmp_path), CPU) for _ in range(2))
    assert CALLS == [10, 10, 9]
    assert first.dtype == second.dtype == np.float16
    np.testing.assert_array_equal(first, second)


def test_other_bars_settings_or_windows_are_embedded_anew(tmp_path):
    data = bar_windows()
    ohlcv = data.bars.ohlcv.copy()
    ohlcv[-1, 4] += 1
    cases = [(other, Closes()) for other in (data, bar_windows(bars=41), bar_windows(lookback=14))]
    cases += [(data, Closes(width=2)), (data, Closes(factor=0.5))]
    cases += [(replace(data, bars=replace(data.bars, ohlcv=ohlcv)), Closes())]
    for number, (windows, settings) in enumerate(cases, start=1):
        assert embed(windows, settings, DiskCache(tmp_path), CPU).shape == (len(windows), settings.width)
        assert len(CALLS) == number


def test_no_embedding_and_stored_ones_need_no_cache(tmp_path):
    store, bars, data = DiskCache(tmp_path), bar_windows(), stored_windows()
    assert embed(bars, NoEmbedding(), store, CPU).shape == (29, 0)
    assert NoEmbedding().rows(bars, CPU)(torch.arange(4)).shape == (4, 0)
    assert embed(data, StoredEmbedding(), store, CPU) is data.embedding
    with pytest.raises(ConfigError, match=r"embedding=stored needs data=windows"):
        embed(bars, StoredEmbedding(), store, CPU)
    assert list(tmp_path.iterdir()) == []
    kernel = KernelEmbedding(width=16)  # stored windows may be embedded like others
    of_bars, of_stored = (embed(windows, kernel, DiskCache(None), CPU) for windows in (bars, data))
    np.testing.assert_array_equal(of_bars, of_stored)


class Killed(BaseException):
    """Ends a computation like a kill."""


def kill_after(count, data, store):
    def report(done, total):
        if done >= count:
            raise Killed

    with pytest.raises(Killed):
        embed(data, Closes(), store, CPU, report)


def test_a_killed_computation_goes_on_where_it_was(tmp_path, in_batches_of):
    in_batches_of(5)
    data, store, seen = bar_windows(), DiskCache(tmp_path), []
    kill_after(17, data, store)
    assert CALLS == [5, 5, 5, 5]
    found = embed(data, Closes(), store, CPU, lambda done, total: seen.append((done, total)))
    assert CALLS == [5, 5, 5, 5, 5, 5, 4]  # the fourth batch was computed but not stored yet
    assert seen == [(15, 29), (20, 29), (25, 29), (29, 29)]
    np.testing.assert_array_equal(found, embed(data, Closes(), DiskCache(None), CPU))
    (left,) = (tmp_path / "embedding").iterdir()
    assert left.suffix != ".parts"


def test_what_is_left_of_a_computation_may_be_damaged(tmp_path, in_batches_of):
    in_batches_of(5)
    data, store = bar_windows(), DiskCache(tmp_path)
    kill_after(29, data, store)
    parts = next((tmp_path / "embedding").glob("*.parts"))
    assert sorted(file.name for file in parts.iterdir()) == ["0.npy", "10.npy", "15.npy", "20.npy", "5.npy"]
    (parts / "5.npy").write_bytes((parts / "5.npy").read_bytes()[:-3])
    for first, width in ((10, 4), (27, 3), (-5, 3)):
        np.save(parts / f"{first}.npy", np.zeros((5, width), np.float16))
    CALLS.clear()
    found = embed(data, Closes(), store, CPU)
    assert CALLS == [5, 5, 4]
    np.testing.assert_array_equal(found, embed(data, Closes(), DiskCache(None), CPU))


def test_short_computations_leave_no_parts(tmp_path):
    written = []
    store = DiskCache(tmp_path)
    store.parts("embedding", "key").clear()
    embed(bar_windows(), Closes(), store, CPU, lambda *_: written.extend(tmp_path.glob("*/*.parts")))
    assert written == []


def test_shuffling_needs_no_embedding_of_its_own(tmp_path):
    kernel = KernelEmbedding(width=16)
    plain = embed(bar_windows(), kernel, DiskCache(tmp_path), CPU)
    shuffled = embed(bar_windows(), replace(kernel, shuffle=True), DiskCache(tmp_path), CPU)
    np.testing.assert_array_equal(plain, shuffled)
    assert len(list((tmp_path / "embedding").iterdir())) == 1


def walk_windows(bars=400):
    return plain_windows(walks(bars, 3), lookback=20)


def test_draws_are_uniform_over_earlier_windows_and_symbols_and_the_seed_alone_decides():
    data = walk_windows()
    sources = earlier_windows(data, 1)
    assert (data.asof[sources] <= data.asof).all()
    newest = np.flatnonzero(data.asof > data.asof[300])
    rank = np.searchsorted(np.sort(data.asof), data.asof, side="right")
    share = rank[sources[newest]] / rank[newest]
    assert abs(share.mean() - 0.5) < 0.06
    assert (sources != np.arange(len(data))).mean() > 0.98
    assert np.bincount(data.symbol[sources], minlength=3).min() > len(data) / 3 * 0.8
    data = walk_windows()
    np.random.seed(5)
    first = earlier_windows(data, 1)
    np.random.seed(6)
    np.testing.assert_array_equal(first, earlier_windows(data, 1))
    assert (first != earlier_windows(data, 2)).mean() > 0.9
    long, short = walk_windows(400), walk_windows(300)
    known = np.flatnonzero(long.asof <= short.asof.max())
    drawn = earlier_windows(long, 1)[known], earlier_windows(short, 1)
    for field in ("asof", "symbol"):
        np.testing.assert_array_equal(getattr(long, field)[drawn[0]], getattr(short, field)[drawn[1]])


@pytest.mark.parametrize("large", [0, 2**40])
def test_shuffled_vectors_are_those_of_their_sources(tmp_path, monkeypatch, large):
    """Whether in memory or in a file, and in portions."""
    monkeypatch.setattr(cache, "LARGE", large)
    monkeypatch.setattr(compute, "ROWS", 7)
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float16)
    store = DiskCache(tmp_path)
    kept = np.asarray(store.arrays("embedding", "key", lambda: {"embedding": vectors})["embedding"])
    sources = np.random.default_rng(1).integers(0, 50, 50)
    np.testing.assert_array_equal(shuffled(kept, sources, store), vectors[sources])
