"""Symbols that hold the same bars: one download under several names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.findings import Finding, first_few
from stockenh.data.readers.clean import Stretch
from stockenh.data.readers.series_rules import FEW

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication by it loses no bits
_MANY: Final = 100_000  # bars, of which an eighth is looked at: the same ones of equal symbols
_SAMPLE: Final = np.uint64(2**61)


def same_bars(stretches: Sequence[Stretch]) -> list[Finding]:
    """A warning per group of symbols that share most of the bars of the shorter one, bit by bit."""
    symbols = sorted({symbol for symbol, _, _ in stretches})
    if len(symbols) < 2:
        return []
    number = {symbol: i for i, symbol in enumerate(symbols)}
    owner = np.concatenate([np.full(len(time), number[symbol]) for symbol, time, _ in stretches])
    key = np.concatenate([_hash(time, ohlcv) for _, time, ohlcv in stretches])
    bars = np.bincount(owner)
    if len(key) > _MANY:
        sampled = key < _SAMPLE
        owner, key = owner[sampled], key[sampled]
    looked_at = np.bincount(owner, minlength=len(symbols))
    order = np.argsort(key, kind="stable")
    owner, key = owner[order], key[order]
    equal = (key[1:] == key[:-1]) & (owner[1:] != owner[:-1])
    pairs = Counter(map(tuple, np.sort(np.stack([owner[:-1][equal], owner[1:][equal]]), axis=0).T.tolist()))
    group = list(range(len(symbols)))
    for (one, two), shared in pairs.items():
        if shared > FEW and 2 * shared > min(looked_at[one], looked_at[two]):
            low, high = sorted((group[one], group[two]))
            group = [low if member == high else member for member in group]
    found = []
    for first in sorted({member for i, member in enumerate(group) if member != i}):
        names = [symbols[i] for i, member in enumerate(group) if member == first]
        message = f"{first_few(names, 5)} have the same bars: one symbol under {len(names)} names"
        fix = "keep one of them, and remove the other files or rows: repeated bars count twice in training"
        found.append(Finding("warning", "same-bars", message, fix, symbol=names[0], rows=int(bars[first])))
    return found


def _hash(time: NDArray[np.datetime64], ohlcv: NDArray[np.float64]) -> NDArray[np.uint64]:
    """A hash (n,) of each bar."""
    with np.errstate(over="ignore"):
        key = time.astype(np.int64).astype(np.uint64) * _MIX
        for column in np.ascontiguousarray(ohlcv.T).view(np.uint64):
            key = (key ^ (key >> np.uint64(29)) ^ column) * _MIX
    return np.asarray(key)
