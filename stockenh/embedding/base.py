"""What a window embedding is: a fixed function of the normalised window, or none at all.

Legend: B windows in a batch, T bars in a window, E embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Embedding(ABC):
    """Settings of an embedding; `stored` says that the data brings it."""

    stored = False
    storage = torch.float32  # what a cached vector is kept in

    @abstractmethod
    def transform(self, x_price: Tensor) -> Tensor:
        """(B, T, 5) normalised window -> (B, E), depending on nothing but the window itself."""


@dataclass(frozen=True)
class NoEmbedding(Embedding):
    """No embedding: (B, 0), and models leave their embedding branch out."""

    def transform(self, x_price: Tensor) -> Tensor:
        return x_price.new_zeros(len(x_price), 0)


@dataclass(frozen=True)
class StoredEmbedding(Embedding):
    """The embedding that a file of ready windows carries; there is nothing to compute."""

    stored = True

    def transform(self, x_price: Tensor) -> Tensor:
        raise TypeError("a stored embedding is read with its windows, not computed")
