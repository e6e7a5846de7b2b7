"""The shuffled control: vectors of other windows, and never of later ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_bars import plain_windows
from random_walks import walks

from stockenh.data import cache as mapped
from stockenh.data.cache import DiskCache
from stockenh.data.windows import BarWindows
from stockenh.embedding import compute as shuffle
from stockenh.embedding.compute import earlier_windows, shuffled


def windows(bars: int = 400, symbols: int = 3) -> BarWindows:
    return plain_windows(walks(bars, symbols), lookback=20)


def test_draws_are_uniform_over_earlier_windows_and_over_symbols() -> None:
    data = windows()
    sources = earlier_windows(data, 1)
    assert (data.asof[sources] <= data.asof).all()
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
    drawn = earlier_windows(long, 1)[known], earlier_windows(short, 1)
    for field in ("asof", "symbol"):
        np.testing.assert_array_equal(getattr(long, field)[drawn[0]], getattr(short, field)[drawn[1]])


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
