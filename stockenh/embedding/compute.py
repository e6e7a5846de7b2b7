"""Embeds all windows of a data set through the cache, and shuffles vectors for an ablation's control.

A permutation would give vectors of later bars to earlier windows. So each window draws its vector from the
windows, of all symbols, that end no later than itself: nothing at bar t depends on a bar after t.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.data.cache import DiskCache, Parts, code_of, key_of, release_pages
from stockenh.data.windows import Windows
from stockenh.embedding import Embedding, NoEmbedding, StoredEmbedding

ROWS = 4096


def earlier_windows(windows: Windows, seed: int) -> NDArray[np.int64]:
    """(n,) for each window one drawn uniformly, with replacement, from those that end no later.

    Later windows, and their number, don't change an earlier window's draw.
    """
    order = np.lexsort((windows.symbol, windows.asof))
    asof = windows.asof[order]
    ended = np.searchsorted(asof, asof, side="right")
    # RandomState's stream never changes between numpy versions (NEP 19), so a saved run repeats its draws.
    drawn = (np.random.RandomState(seed).random_sample(len(order)) * ended).astype(np.int64)
    sources = np.empty(len(order), np.int64)
    sources[order] = order[drawn]
    return sources


def shuffled(
    embedding: NDArray[np.floating], sources: NDArray[np.int64], cache: DiskCache
) -> NDArray[np.floating]:
    """(n, E) the vectors of the windows `sources` (n,); a large result is in a file if there is a cache."""
    result = cache.scratch((len(sources), embedding.shape[1]), embedding.dtype)
    for begin in range(0, len(sources), ROWS):
        result[begin : begin + ROWS] = embedding[sources[begin : begin + ROWS]]
        for mapped in (embedding, result):
            release_pages(mapped)
    return result


Watch = Callable[[int, int], None]  # gets the number of windows embedded so far, and of all

SAVE_SECONDS = 15.0  # work that a killed computation loses at most


def unwatched(done: int, total: int) -> None:
    """Ignores the progress."""


def embed(
    windows: Windows,
    embedding: Embedding,
    cache: DiskCache,
    device: torch.device,
    watch: Watch = unwatched,
) -> NDArray[np.floating]:
    """(n, E) embedding of all windows, cached by bars, settings, weights and code.

    It continues from what a killed process had embedded. `embedding.shuffle` is not applied here. On a CPU
    instead of MPS, which has no float64.
    """
    device = torch.device("cpu") if device.type == "mps" else device
    if isinstance(embedding, StoredEmbedding):
        return embedding.vectors(windows)
    if isinstance(embedding, NoEmbedding):
        return np.zeros((len(windows), 0), np.float32)
    embedding = embedding.resolve(device)
    code = code_of("embedding"), code_of("data")
    key = key_of(windows.price_digest(), windows.lookback, embedding.identity(), *code)
    parts = cache.parts("embedding", key)

    def compute() -> dict[str, NDArray[np.floating]]:
        return {"embedding": _compute(windows, embedding, device, cache, parts, watch)}

    arrays = cache.arrays("embedding", key, compute)
    parts.clear()
    return np.asarray(arrays["embedding"])


@torch.no_grad()
def _compute(
    windows: Windows, embedding: Embedding, device: torch.device, cache: DiskCache, parts: Parts, watch: Watch
) -> NDArray[np.floating]:
    size = embedding.batch(device)
    dtype = torch.empty(0, dtype=embedding.storage).numpy().dtype
    vectors = cache.scratch((len(windows), embedding.width_of(windows)), dtype)
    done = _resume(vectors, parts)
    watch(int(done.sum()), len(vectors))
    embed_rows = embedding.rows(windows, device)
    first, saved = 0, time.monotonic()  # rows from `first` on are not on disk yet
    for start in range(0, len(vectors), size):
        rows = np.arange(start, min(start + size, len(vectors)))
        if done[rows].all():
            if first < start:
                parts.write(first, vectors[first:start])
            first = int(rows[-1]) + 1
            continue
        part = embed_rows(torch.from_numpy(filled(rows, size, device)).to(device))[: len(rows)]
        vectors[rows] = part.to(embedding.storage).cpu().numpy()
        done[rows] = True
        watch(int(done.sum()), len(vectors))
        if time.monotonic() - saved > SAVE_SECONDS:
            parts.write(first, vectors[first : start + size])
            release_pages(vectors)
            first, saved = start + size, time.monotonic()
    return vectors


def filled(rows: NDArray[np.int64], size: int, device: torch.device) -> NDArray[np.int64]:
    """The rows (k,), on a GPU repeated up to a multiple of `size`.

    A GPU has other kernels for other batch sizes, which round otherwise: a window's results would depend on
    how many others it is computed with.
    """
    return rows if device.type == "cpu" else np.resize(rows, -(-len(rows) // size) * size)


def _resume(vectors: NDArray[np.floating], parts: Parts) -> NDArray[np.bool_]:
    """Fills in the vectors already on disk; (n,) whether a window's vector was."""
    done = np.zeros(len(vectors), np.bool_)
    for first, rows in parts.read():
        stretch = vectors[first : first + len(rows)] if first >= 0 and rows.ndim == 2 else vectors[:0]
        if rows.shape == stretch.shape and rows.dtype == vectors.dtype:
            stretch[:] = rows
            done[first : first + len(rows)] = True
    return done
