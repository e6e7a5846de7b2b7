"""Models that can say themselves what they weigh.

Legend: B batch, T bars, V static variables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

PRICE_SERIES = ("open", "high", "low", "close", "volume")
EMBEDDING = "embedding"


@dataclass(frozen=True)
class Interpretation:
    """What a forecast came from. Weights are shares: each row sums to 1.

    price:     (B, T, 5) weights of open, high, low, close and volume at each bar
    static:    (B, V) weights of the context features, then of the embedding where there is one
    attention: (B, heads, T) of the last bar to each bar
    """

    price: Tensor
    static: Tensor
    attention: Tensor

    def static_names(self, context_names: Sequence[str]) -> list[str]:
        """The names of the V static variables."""
        return [*context_names, *[EMBEDDING] * (self.static.shape[1] - len(context_names))]

    def by_name(self, context_names: Sequence[str]) -> dict[str, float]:
        """Mean weight of every variable: of the price series over bars, and of the static ones."""
        means = [*self.price.mean((0, 1)).tolist(), *self.static.mean(0).tolist()]
        return dict(zip([*PRICE_SERIES, *self.static_names(context_names)], means, strict=True))


class Interpretable(ABC):
    """A network whose forecasts come with weights on its inputs."""

    @abstractmethod
    def interpret(self, x_price: Tensor, x_kron: Tensor, x_ctx: Tensor) -> Interpretation:
        """The variable weights and the attention behind the forecast of the same inputs."""
