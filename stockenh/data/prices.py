"""The price input of windows, gathered and normalised where the data already is.

Legend: N bars of all series, n windows, T bars in a window, B batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from stockenh.data.augment import Augment, NoAugment
from stockenh.errors import ConfigError

# What exports' float noise makes of a price that did not move (relative): flat, and not a full-scale swing.
FLAT = 1e-6


class Prices(ABC):
    """Gathers normalised price windows on the device where the data already is."""

    @abstractmethod
    def gather(self, rows: Tensor, augment: Augment) -> Tensor:
        """rows (B,) window numbers -> (B, T, 5) float32 in [-1, 1]."""

    @abstractmethod
    def raw(self, rows: Tensor, augment: Augment) -> Tensor:
        """The same before it is normalised, where it did not come so."""


class BarPrices(Prices):
    """Bars (N, 5) on the device; a batch is gathered from them and normalised there."""

    def __init__(self, bars: Tensor, end: Tensor, lookback: int) -> None:
        self.bars = bars
        self.end = end
        self.steps = torch.arange(1 - lookback, 1, device=bars.device)

    def gather(self, rows: Tensor, augment: Augment) -> Tensor:
        return normalise(self.raw(rows, augment))

    def raw(self, rows: Tensor, augment: Augment) -> Tensor:
        return augment(self.bars[self.end[rows, None] + self.steps])  # (B, T, 5)


class StoredPrices(Prices):
    """Windows (n, T, 5) that came normalised."""

    def __init__(self, windows: Tensor) -> None:
        self.windows = windows

    def gather(self, rows: Tensor, augment: Augment) -> Tensor:
        refuse_noise(augment)
        return self.windows[rows]

    def raw(self, rows: Tensor, augment: Augment) -> Tensor:
        return self.gather(rows, augment)


def refuse_noise(augment: Augment) -> None:
    """Raises ConfigError for an augmentation of windows that came normalised."""
    if not isinstance(augment, NoAugment):
        raise ConfigError("augment needs raw bars, and data=windows has none: take augment=none")


def normalise(raw: Tensor) -> Tensor:
    """(B, T, 5) raw bars -> the same in [-1, 1] by the window's own extremes.

    Open, high, low and close share one scale; log(1 + volume) has its own. What is flat becomes 0.
    """
    price = raw[..., :4].flatten(1)  # extremes of values in a row are found five times as fast
    price = _min_max(price, price.amin(1, True), price.amax(1, True)).unflatten(1, (-1, 4))
    volume = raw[..., 4:].log1p()
    return torch.cat([price, _min_max(volume, volume.amin(1, True), volume.amax(1, True))], -1)


def _min_max(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    span = high - low
    flat = span <= FLAT * high.abs()
    scaled = 2 * (x - low) / span.masked_fill(flat, 1) - 1
    return scaled.masked_fill(flat, 0)
