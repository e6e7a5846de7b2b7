"""The control of an ablation: real vectors that belong to other windows.

A permutation would hand vectors of later bars to earlier windows. So each window draws its vector from
those windows, of all symbols, that end no later than itself: nothing at bar t depends on a bar after t.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stockenh.data.cache import DiskCache
from stockenh.data.mapped import give_back
from stockenh.data.windows import Windows

ROWS = 4096


def earlier_windows(windows: Windows, seed: int) -> NDArray[np.int64]:
    """(n,) for each window one drawn evenly, with replacement, from those that end no later.

    Later windows, and their number, don't change what an earlier one draws.
    """
    order = np.lexsort((windows.symbol, windows.asof))
    asof = windows.asof[order]
    ended = np.searchsorted(asof, asof, side="right")
    # RandomState's stream never changes between numpy versions (NEP 19): a saved run finds its draws.
    drawn = (np.random.RandomState(seed).random_sample(len(order)) * ended).astype(np.int64)
    sources = np.empty(len(order), np.int64)
    sources[order] = order[drawn]
    return sources


def shuffled(
    embedding: NDArray[np.floating], sources: NDArray[np.int64], cache: DiskCache
) -> NDArray[np.floating]:
    """(n, E) the vectors of the windows `sources` (n,); many of them lie in a file where there is a cache."""
    found = cache.scratch((len(sources), embedding.shape[1]), embedding.dtype)
    for begin in range(0, len(sources), ROWS):
        found[begin : begin + ROWS] = embedding[sources[begin : begin + ROWS]]
        for mapped in (embedding, found):
            give_back(mapped)
    return found
