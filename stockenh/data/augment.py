"""Train-time augmentation: what may happen to a gathered window of raw bars before it is normalised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


class Augment(ABC):
    """A random view of raw windows."""

    @abstractmethod
    def __call__(self, ohlcv: Tensor) -> Tensor:
        """(B, T, 5) raw open, high, low, close, volume -> the same shape, a valid bar each."""


@dataclass(frozen=True)
class NoAugment(Augment):
    """The window as it is."""

    def __call__(self, ohlcv: Tensor) -> Tensor:
        return ohlcv
