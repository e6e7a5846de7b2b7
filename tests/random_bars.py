"""Random bars with the oddities of real ones, and windows over them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.data.bars import Bars
from stockenh.data.prices import NoAugment
from stockenh.data.windows import BarWindows, StoredWindows, index_windows

Arrays = tuple[NDArray[np.datetime64], NDArray[np.float64]]


def random_series(seed: int, length: int) -> Arrays:
    """Daily bars with gaps in price and date, flat stretches, no volume, equal ticks, some weekends."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, 0.015, length) + rng.choice([0, 0.06, -0.06], length, p=[0.9, 0.05, 0.05])
    flat = np.convolve(rng.random(length) < 0.01, np.ones(30), "full")[:length] > 0
    moves[flat] = 0
    close = np.round(50 * np.exp(np.cumsum(moves)), 1)
    opening = np.concatenate([close[:1], close[:-1]])
    opening = np.where(flat, close, np.round(opening * np.exp(rng.normal(0, 0.008, length)), 1))
    reach = np.where(flat, 0, np.round(np.abs(rng.normal(0, 0.4, (2, length))), 1))
    high = np.maximum(opening, close) + reach[0]
    low = np.maximum(np.minimum(opening, close) - reach[1], 0.1)
    volume = np.where(flat & (rng.random(length) < 0.8), 0, np.round(np.exp(rng.normal(12, 1, length))))
    skipped = rng.choice([0, 3, 40], length, p=[0.96, 0.03, 0.01])
    day = np.busday_offset("2011-03-16", np.arange(length) + np.cumsum(skipped), roll="forward")
    day = np.where((rng.random(length) < 0.02) & (day.astype(int) % 7 == 1), day + 1, day)  # a Saturday
    return day.astype("datetime64[s]"), np.column_stack([opening, high, low, close, volume])


def smooth_series(seed: int, length: int) -> Arrays:
    """Daily bars as an actively traded stock has them: a random walk, every bar with a range and volume."""
    rng = np.random.default_rng(seed)
    close = 80 * np.exp(np.cumsum(rng.normal(0.0003, 0.018, length)))
    opening = np.concatenate([close[:1], close[:-1]]) * np.exp(rng.normal(0, 0.006, length))
    high = np.maximum(opening, close) * np.exp(np.abs(rng.normal(0, 0.006, length)))
    low = np.minimum(opening, close) * np.exp(-np.abs(rng.normal(0, 0.006, length)))
    volume = np.round(np.exp(rng.normal(14, 0.6, length)))
    day = np.busday_offset("2009-01-02", np.arange(length), roll="forward")
    return day.astype("datetime64[s]"), np.column_stack([opening, high, low, close, volume])


def two_symbols(bars: int = 70, lookback: int = 12, horizons: tuple[int, ...] = (3, 5, 10)) -> BarWindows:
    """Windows over the smooth bars of two symbols, with four random context features."""
    both = Bars.from_series([("A", *smooth_series(1, bars)), ("B", *smooth_series(2, bars))])
    context = np.random.default_rng(0).normal(3, 2, (len(both), 4)).astype(np.float32)
    return index_windows(both, context, tuple("abcd"), horizons, lookback)


def plain_windows(bars: Bars, lookback: int = 20, horizons: tuple[int, ...] = (1,)) -> BarWindows:
    """Windows over bars, without context features."""
    return index_windows(bars, np.zeros((len(bars), 0), np.float32), (), horizons, lookback)


def as_stored(windows: BarWindows, embedding: NDArray[np.float32]) -> StoredWindows:
    """The same windows as ready samples."""
    prices = windows.prices(torch.device("cpu")).gather(torch.arange(len(windows)), NoAugment())
    names = ("symbols", "symbol", "asof", "context", "context_names", "y_ret", "horizons", "lookback")
    shared = {name: getattr(windows, name) for name in names}
    return StoredWindows(**shared, ohlcv_norm=prices.numpy(), embedding=embedding)
