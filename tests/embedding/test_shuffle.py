"""The shuffled control: vectors of other windows, and never of later ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_walks import walks

from stockenh.data import cache as mapped
from stockenh.data.cache import DiskCache
from stockenh.data.windows import BarWindows, index_windows
from stockenh.embedding import compute as shuffle
from stockenh.embedding.compute import earlier_windows, shuffled


def windows(bars: int = 400, symbols: int = 3) -> BarWindows:
    found = walks(bars, symbols)
    return index_windows(found, np.zeros((len(found), 0), np.float32), (), (1,), lookback=20)


def test_no_window_draws_a_later_one() -> None:
    data = windows()
    assert (data.asof[earlier_windows(data, 1)] <= data.asof).all()


def test_the_draws_are_even_over_what_has_ended_and_over_symbols() -> None:
    data = windows()
    sources = earlier_windows(data, 1)
    newest = np.flatnonzero(data.asof > data.asof[300])
    rank = np.searchsorted(np.sort(data.asof), data.asof, side="right")
    share = rank[sources[newest]] / rank[newest]
    assert abs(share.mean() - 0.5) < 0.06
    assert (sources != np.arange(len(data))).mean() > 0.98
    assert np.bincount(data.symbol[sources], minlength=3).min() > len(data) / 3 * 0.8


def test_the_seed_decides_and_nothing_else() -> None:
    data = windows()
    np.random.seed(5)
    first = earlier_windows(data, 1)
    np.random.seed(6)
    np.testing.assert_array_equal(first, earlier_windows(data, 1))
    assert (first != earlier_windows(data, 2)).mean() > 0.9


def test_bars_that_come_later_change_no_draw() -> None:
    long, short = windows(400), windows(300)
    known = np.flatnonzero(long.asof <= short.asof.max())
    same = long.end[earlier_windows(long, 1)[known]], short.end[earlier_windows(short, 1)]
    # rows of bars differ by where a symbol begins, so compare by symbol and place
    for data, rows in zip((long, short), same, strict=True):
        assert len(rows) == len(known), data.symbols
    of = [data.bars.time[rows] for data, rows in zip((long, short), same, strict=True)]
    np.testing.assert_array_equal(*of)


@pytest.mark.parametrize("large", [0, 2**40])
def test_shuffled_vectors_are_those_of_their_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """Whether in memory or in a file, and in portions."""
    monkeypatch.setattr(mapped, "LARGE", large)
    monkeypatch.setattr(shuffle, "ROWS", 7)
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float16)
    cache = DiskCache(tmp_path)
    kept = np.asarray(cache.arrays("embedding", "key", lambda: {"embedding": vectors})["embedding"])
    sources = np.random.default_rng(1).integers(0, 50, 50)
    np.testing.assert_array_equal(shuffled(kept, sources, cache), vectors[sources])
