"""Window embeddings: a fixed function of the window's own bars, or none.

Legend: B windows in a batch, T bars in a window, E embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.data.prices import NoAugment
from stockenh.data.windows import StoredWindows, Windows
from stockenh.errors import ConfigError

Rows = Callable[[Tensor], Tensor]  # window numbers (B,) on the device -> (B, E)


class Embedding(ABC):
    """Settings of an embedding; `shuffle` gives each window the vector of another (`earlier_windows`)."""

    stored: ClassVar[bool] = False  # it comes with the data
    needs_bars: ClassVar[bool] = False  # it is computed from raw bars, not from normalised windows
    storage: ClassVar[torch.dtype] = torch.float32  # of a cached vector
    shuffle: bool = False

    @abstractmethod
    def width_of(self, windows: Windows) -> int:
        """E, without computing an embedding. Raises ConfigError where it is unknown."""

    @abstractmethod
    def rows(self, windows: Windows, device: torch.device) -> Rows:
        """The function that embeds windows by number, with its data on the device."""

    def batch(self, device: torch.device) -> int:
        """Number of windows to embed at once."""
        return 2048

    def identity(self) -> object:
        """Everything besides the bars that the vectors depend on; its repr is part of the cache key."""
        return self

    def resolve(self, device: torch.device) -> Self:
        """These settings with every `auto` resolved for a device."""
        return self

    def provenance(self) -> dict[str, Any] | None:
        """The manifest's entry about its weights; None where it has none."""
        return None

    def agrees_with(self, other: Embedding) -> bool:
        """Whether both settings give the same vectors; weights are compared by `provenance`."""
        return self == other

    def warnings(self, test_begins: np.datetime64 | None) -> tuple[str, ...]:
        """Warnings about the test scores. test_begins: None where there is no test part."""
        return ()


class PriceEmbedding(Embedding):
    """An embedding of the normalised price window."""

    @abstractmethod
    def transform(self, x_price: Tensor) -> Tensor:
        """(B, T, 5) normalised window -> (B, E), a function of the window alone."""

    def width_of(self, windows: Windows) -> int:
        return int(self.transform(torch.zeros(1, windows.lookback, 5)).shape[1])

    def rows(self, windows: Windows, device: torch.device) -> Rows:
        prices = windows.prices(device)
        return lambda rows: self.transform(prices.gather(rows, NoAugment()))


@dataclass(frozen=True)
class NoEmbedding(Embedding):
    """No embedding: (B, 0), and models omit their embedding branch."""

    def width_of(self, windows: Windows) -> int:
        return 0

    def rows(self, windows: Windows, device: torch.device) -> Rows:
        return lambda rows: torch.zeros(len(rows), 0, device=device)


@dataclass(frozen=True)
class StoredEmbedding(Embedding):
    """The embedding in a file of ready windows; nothing is computed."""

    stored: ClassVar[bool] = True

    shuffle: bool = False

    def width_of(self, windows: Windows) -> int:
        return int(self.vectors(windows).shape[1])

    def rows(self, windows: Windows, device: torch.device) -> Rows:
        vectors = torch.from_numpy(self.vectors(windows)).to(device)
        return lambda rows: vectors[rows]

    def vectors(self, windows: Windows) -> NDArray[np.float32]:
        """(n, E) the windows' own vectors. Raises ConfigError where they have none."""
        if not isinstance(windows, StoredWindows):
            raise ConfigError("embedding=stored needs data=windows: other data bring no embedding")
        return windows.embedding
