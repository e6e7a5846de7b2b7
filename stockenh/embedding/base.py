"""What a window embedding is: a fixed function of the window's own bars, or none at all.

Legend: B windows in a batch, T bars in a window, E embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from stockenh.data.prices import NoAugment
from stockenh.data.windows import StoredWindows, Windows
from stockenh.errors import ConfigError

Rows = Callable[[Tensor], Tensor]  # window numbers (B,) on the device -> (B, E)


class Embedding(ABC):
    """Settings of an embedding; `shuffle` gives each window the vector of another (see shuffle.py)."""

    stored: ClassVar[bool] = False  # the data brings it
    needs_bars: ClassVar[bool] = False  # raw ones: normalised windows don't do
    storage: ClassVar[torch.dtype] = torch.float32  # what a cached vector is kept in
    shuffle: bool = False

    @abstractmethod
    def width_of(self, windows: Windows) -> int:
        """E, found without computing an embedding. Raises ConfigError where it can't be had."""

    @abstractmethod
    def rows(self, windows: Windows, device: torch.device) -> Rows:
        """The function that embeds windows by their numbers, with all that it needs on the device."""

    def batch(self, device: torch.device) -> int:
        """Windows to embed at once."""
        return 2048

    def identity(self) -> object:
        """What the vectors depend on besides the bars; its repr is part of the cache key."""
        return self

    def settled(self, device: torch.device) -> Self:
        """These settings with what was left to a rule (`auto`) decided for a device."""
        return self

    def provenance(self) -> dict[str, Any] | None:
        """What the manifest says of the weights behind it; None where there are none."""
        return None

    def agrees_with(self, other: Embedding) -> bool:
        """Whether the settings ask for the same vectors; where weights lie is for `provenance` to judge."""
        return self == other

    def warnings(self, test_begins: np.datetime64 | None) -> tuple[str, ...]:
        """What a reader of the test scores must know. test_begins: None where there is no test part."""
        return ()


class PriceEmbedding(Embedding):
    """An embedding of the normalised price window."""

    @abstractmethod
    def transform(self, x_price: Tensor) -> Tensor:
        """(B, T, 5) normalised window -> (B, E), depending on nothing but the window itself."""

    def width_of(self, windows: Windows) -> int:
        return int(self.transform(torch.zeros(1, windows.lookback, 5)).shape[1])

    def rows(self, windows: Windows, device: torch.device) -> Rows:
        prices = windows.prices(device)
        return lambda rows: self.transform(prices.gather(rows, NoAugment()))


@dataclass(frozen=True)
class NoEmbedding(Embedding):
    """No embedding: (B, 0), and models leave their embedding branch out."""

    def width_of(self, windows: Windows) -> int:
        return 0

    def rows(self, windows: Windows, device: torch.device) -> Rows:
        return lambda rows: torch.zeros(len(rows), 0, device=device)


@dataclass(frozen=True)
class StoredEmbedding(Embedding):
    """The embedding that a file of ready windows carries; there is nothing to compute."""

    stored: ClassVar[bool] = True

    shuffle: bool = False

    def width_of(self, windows: Windows) -> int:
        return int(self.of(windows).embedding.shape[1])

    def rows(self, windows: Windows, device: torch.device) -> Rows:
        vectors = torch.from_numpy(self.of(windows).embedding).to(device)
        return lambda rows: vectors[rows]

    def of(self, windows: Windows) -> StoredWindows:
        """The windows, which carry vectors. Raises ConfigError where they carry none."""
        if not isinstance(windows, StoredWindows):
            raise ConfigError("embedding=stored needs data=windows: other data bring no embedding")
        return windows
