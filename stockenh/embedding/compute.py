"""Embeds every window of a data set once and keeps the result on disk.

Legend: n windows, E embedding width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.data.augment import NoAugment
from stockenh.data.cache import DiskCache, code_of, key_of
from stockenh.data.windows import StoredWindows, Windows
from stockenh.embedding.base import Embedding, NoEmbedding
from stockenh.errors import ConfigError

CHUNK = 2048


def embed(
    windows: Windows, embedding: Embedding, cache: DiskCache, device: torch.device
) -> NDArray[np.floating]:
    """(n, E) embedding of all windows, found in the cache by bars, settings and code."""
    if embedding.stored:
        return _stored(windows)
    if isinstance(embedding, NoEmbedding):
        return np.zeros((len(windows), 0), np.float32)
    key = key_of(windows.digest(), windows.lookback, embedding, code_of("embedding"), code_of("data"))
    found = cache.arrays("embedding", key, lambda: {"embedding": _compute(windows, embedding, device)})
    return np.asarray(found["embedding"])


def width(windows: Windows, embedding: Embedding) -> int:
    """The width E that `embed` will give; raises ConfigError where the window is too short for it."""
    if embedding.stored:
        return int(_stored(windows).shape[1])
    return int(embedding.transform(torch.zeros(1, windows.lookback, 5)).shape[1])


def _stored(windows: Windows) -> NDArray[np.float32]:
    if not isinstance(windows, StoredWindows):
        raise ConfigError("embedding=stored needs data=windows: other data bring no embedding")
    return windows.embedding


@torch.no_grad()
def _compute(windows: Windows, embedding: Embedding, device: torch.device) -> NDArray[np.floating]:
    prices = windows.prices(device)
    vectors: torch.Tensor | None = None
    for rows in torch.arange(len(windows), device=device).split(CHUNK):
        part = embedding.transform(prices.gather(rows, NoAugment())).cpu()
        if vectors is None:
            vectors = torch.empty(len(windows), part.shape[1], dtype=embedding.storage)
        vectors[rows.cpu()] = part.to(embedding.storage)
    assert vectors is not None, "there is no data set without a window"
    return np.asarray(vectors.numpy())
