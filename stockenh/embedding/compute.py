"""The control of an ablation: real vectors that belong to other windows.

A permutation would hand vectors of later bars to earlier windows. So each window draws its vector from
those windows, of all symbols, that end no later than itself: nothing at bar t depends on a bar after t.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.data.cache import DiskCache, Parts, code_of, give_back, key_of
from stockenh.data.windows import Windows
from stockenh.embedding.base import Embedding, NoEmbedding, StoredEmbedding

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


Watch = Callable[[int, int], None]  # windows embedded so far, and of how many

SAVE_SECONDS = 15.0  # a killed computation loses at most so much


def unwatched(done: int, total: int) -> None:
    """Nobody is watching."""


def embed(
    windows: Windows,
    embedding: Embedding,
    cache: DiskCache,
    device: torch.device,
    watch: Watch = unwatched,
) -> NDArray[np.floating]:
    """(n, E) embedding of all windows, found in the cache by bars, settings, weights and code.

    What a killed process had embedded is taken over. `embedding.shuffle` is not applied here.
    """
    if isinstance(embedding, StoredEmbedding):
        return embedding.of(windows).embedding
    if isinstance(embedding, NoEmbedding):
        return np.zeros((len(windows), 0), np.float32)
    embedding = embedding.settled(device)
    known = embedding.identity()
    key = key_of(windows.digest(), windows.lookback, known, code_of("embedding"), code_of("data"))
    parts = cache.parts("embedding", key)

    compute = partial(_compute, windows, embedding, device, cache, parts, watch)
    found = cache.arrays("embedding", key, lambda: {"embedding": compute()})
    parts.clear()
    return np.asarray(found["embedding"])


@torch.no_grad()
def _compute(
    windows: Windows, embedding: Embedding, device: torch.device, cache: DiskCache, parts: Parts, watch: Watch
) -> NDArray[np.floating]:
    size = embedding.batch(device)
    dtype = torch.empty(0, dtype=embedding.storage).numpy().dtype
    vectors = cache.scratch((len(windows), embedding.width_of(windows)), dtype)
    done = _take_up(vectors, parts)
    watch(int(done.sum()), len(vectors))
    of_rows = embedding.rows(windows, device)
    first, saved = 0, time.monotonic()  # rows from `first` on are not on the disk yet
    for start in range(0, len(vectors), size):
        rows = np.arange(start, min(start + size, len(vectors)))
        if done[rows].all():
            _save(parts, first, vectors[first:start])
            first = int(rows[-1]) + 1
            continue
        part = of_rows(torch.from_numpy(rows).to(device))
        vectors[rows] = part.to(embedding.storage).cpu().numpy()
        done[rows] = True
        watch(int(done.sum()), len(vectors))
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(parts, first, vectors[first : start + size])
            give_back(vectors)
            first, saved = start + size, time.monotonic()
    return vectors


def _take_up(vectors: NDArray[np.floating], parts: Parts) -> NDArray[np.bool_]:
    """Fills in what is on the disk already; (n,) whether a window's vector is."""
    done = np.zeros(len(vectors), np.bool_)
    for first, rows in parts.read():
        stretch = vectors[first : first + len(rows)] if first >= 0 and rows.ndim == 2 else vectors[:0]
        if rows.shape == stretch.shape and rows.dtype == vectors.dtype:
            stretch[:] = rows
            done[first : first + len(rows)] = True
    return done


def _save(parts: Parts, first: int, rows: NDArray[np.floating]) -> None:
    if len(rows):
        parts.write(first, rows)
