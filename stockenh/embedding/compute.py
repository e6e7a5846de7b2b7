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
    """(n, E) embedding of all windows, found in the cache by bars, settings and code.

    Raises ConfigError where the embedding is to come with the windows and does not.
    """
    if embedding.stored:
        if not isinstance(windows, StoredWindows):
            raise ConfigError(
                "embedding=stored needs data=windows: other data carry no embedding of their own, "
                "take embedding=kernel or embedding=none"
            )
        return windows.embedding
    if isinstance(embedding, NoEmbedding):
        return np.zeros((len(windows), 0), np.float32)
    key = key_of(windows.digest(), windows.lookback, embedding, code_of("embedding"), code_of("data"))
    found = cache.arrays("embedding", key, lambda: {"embedding": _compute(windows, embedding, device)})
    return np.asarray(found["embedding"])


@torch.no_grad()
def _compute(windows: Windows, embedding: Embedding, device: torch.device) -> NDArray[np.floating]:
    prices = windows.prices(device)
    chunks = []
    for rows in torch.arange(len(windows), device=device).split(CHUNK):
        vectors = embedding.transform(prices.gather(rows, NoAugment()))
        chunks.append(vectors.to(embedding.storage).cpu().numpy())
    return np.concatenate(chunks)
