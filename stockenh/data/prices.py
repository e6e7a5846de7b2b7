"""The price input: gathering windows of bars, augmenting them with noise, normalising them.

Augmentation changes only the price input; embedding and context features are those of the true bars.

Legend: B windows, T bars; the last axis is open, high, low, close, volume.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from stockenh.errors import ConfigError

Noise = Annotated[float, Field(ge=0, le=1)]  # relative, such as 0.002


class Augment(ABC):
    """A random view of raw windows."""

    needs_bars: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, ohlcv: Tensor) -> Tensor:
        """(B, T, 5) raw open, high, low, close, volume -> the same shape, all valid bars."""


@dataclass(frozen=True)
class NoAugment(Augment):
    """The window as it is."""

    needs_bars: ClassVar[bool] = False

    def __call__(self, ohlcv: Tensor) -> Tensor:
        return ohlcv


@dataclass(frozen=True)
class RawNoise(Augment):
    """Every number of a bar times exp(s e) with e from N(0, 1): relative noise that keeps prices positive.

    Afterwards the highest price of a bar becomes its high and the lowest its low.

    price:  s of open, high, low and close
    volume: s of volume; a volume of 0 stays 0
    """

    price: Noise = 0.002
    volume: Noise = 0.05

    def __call__(self, ohlcv: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fresh noise for every number; from torch's global generator unless one is given."""
        return self.apply(ohlcv, torch.randn(ohlcv.shape, generator=generator, device=ohlcv.device))

    def apply(self, ohlcv: Tensor, noise: Tensor) -> Tensor:
        """The bars (..., T, 5) moved by standard normal noise of a shape that broadcasts with theirs."""
        moved = ohlcv * torch.exp(_scale(self.price, self.volume, noise.device) * noise)
        price = moved[..., :4]
        opening, _, _, close, volume = moved.unbind(-1)
        return torch.stack([opening, price.amax(-1), price.amin(-1), close, volume], -1)


@functools.cache
def _scale(price: float, volume: float, device: torch.device) -> Tensor:
    """Copied to a device once: a copy at every step would make the host wait."""
    return torch.tensor([price] * 4 + [volume], device=device)


class Prices(ABC):
    """The price windows of a data set, where they are stored.

    is_raw: whether they are raw bars; ready windows are normalised already
    """

    is_raw: bool = True

    @abstractmethod
    def fetch(self, rows: Tensor) -> Tensor:
        """rows (B,) window numbers -> (B, T, 5) float32 as they are stored, on the device."""

    def raw(self, rows: Tensor, augment: Augment) -> Tensor:
        """The augmented windows (B, T, 5) before they are normalised."""
        return self.augmented(self.fetch(rows), augment)

    def gather(self, rows: Tensor, augment: Augment) -> Tensor:
        """The model's price input: (B, T, 5) float32 in [-1, 1]."""
        return self.normalised(self.raw(rows, augment))

    def augmented(self, fetched: Tensor, augment: Augment) -> Tensor:
        """Raises ConfigError for an augmentation of windows that are not raw."""
        if self.is_raw:
            return augment(fetched)
        if not isinstance(augment, NoAugment):
            raise ConfigError("augment needs raw bars, and data=windows has none: take augment=none")
        return fetched

    def normalised(self, augmented: Tensor) -> Tensor:
        return normalise(augmented) if self.is_raw else augmented


class BarPrices(Prices):
    """Bars (N, 5) on the device; a batch is gathered from them and normalised there."""

    def __init__(self, bars: Tensor, end: Tensor, lookback: int) -> None:
        self.bars = bars
        self.end = end
        self.steps = torch.arange(1 - lookback, 1, device=bars.device)

    def fetch(self, rows: Tensor) -> Tensor:
        return self.bars[self.end[rows, None] + self.steps]


class StoredPrices(Prices):
    """Ready windows (n, T, 5) on the device."""

    is_raw = False

    def __init__(self, windows: Tensor) -> None:
        self.windows = windows

    def fetch(self, rows: Tensor) -> Tensor:
        return self.windows[rows]


# Relative size of the float noise that exports add to a price that did not move: it counts as flat.
FLAT = 1e-6


def normalise(raw: Tensor) -> Tensor:
    """(B, T, 5) raw bars -> the same scaled to [-1, 1] by the window's own extremes.

    Open, high, low and close share one scale; log(1 + volume) has its own. Flat values become 0.
    """
    return scale(raw[..., :4], raw[..., 4:].log1p())


def scale(price: Tensor, volume: Tensor) -> Tensor:
    """Raw prices (B, T, 4) and log(1 + volume) (B, T, 1) -> (B, T, 5), each in [-1, 1]."""
    price = price.flatten(1)  # contiguous rows: amin and amax are five times as fast
    price = _min_max(price, price.amin(1, True), price.amax(1, True)).unflatten(1, (-1, 4))
    return torch.cat([price, _min_max(volume, volume.amin(1, True), volume.amax(1, True))], -1)


def _min_max(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    span = high - low
    flat = span <= FLAT * high.abs()
    scaled = 2 * (x - low) / span.masked_fill(flat, 1) - 1
    return scaled.masked_fill(flat, 0)
