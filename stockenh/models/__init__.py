"""What every network shares: its input shapes, its settings and their checks, and how it is interpreted.

Legend: B batch, T bars, V static variables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from stockenh.errors import ConfigError

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


class Interpretable(ABC):
    """A network whose forecasts come with weights on its inputs."""

    @abstractmethod
    def interpret(self, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> Interpretation:
        """The variable weights and the attention behind the forecast of the same inputs."""


@dataclass(frozen=True)
class InputSpec:
    """Shapes that the data fixes and the model must fit.

    lookback:  bars in a window
    price:     series per bar (open, high, low, close, volume)
    embedding: width of the foundation-model embedding; 0 where there is none
    context:   number of context features
    horizons:  number of forecast horizons
    categories: of each own column of categories how many train has, see `stockenh.models.categories`
    """

    lookback: int
    price: int
    embedding: int
    context: int
    horizons: int
    categories: tuple[int, ...] = ()


class ModelSettings(ABC):
    """Hyper-parameters of one kind of network; subclasses are frozen dataclasses with bounds in their types.

    gives_quantiles: its output has `quantiles` and `quantile_levels`, which the pinball loss needs
    """

    gives_quantiles: ClassVar[bool] = False

    @property
    def levels(self) -> tuple[float, ...]:
        """Of the quantiles, empty without."""
        return ()

    @abstractmethod
    def build(self, inputs: InputSpec) -> nn.Module:
        """The network, freshly initialised from torch's random state.

        Its forward takes x_price (B, T, 5), x_embedding (B, E) and x_ctx (B, F), and returns a dict with at
        least `ret`, `up_logits` and `up_prob`, each (B, H). Raises ConfigError where settings and data don't
        fit.
        """

    def try_out(self, inputs: InputSpec) -> None:
        """Raises ConfigError where the network does not do what `build` says; those of this package do."""
        return None


def require_heads_divide(d_model: int, heads: int, even: bool = False) -> None:
    """Raises ConfigError unless the heads share d_model in equal widths; even, as rotary positions need."""
    multiple = 2 if even else 1
    unit = multiple * heads
    if d_model % unit == 0:
        return
    below = d_model // unit * unit
    widths = " or ".join(str(width) for width in (below, below + unit) if width)
    valid = [n for n in range(1, d_model // multiple + 1) if d_model % (multiple * n) == 0]
    nearest = sorted(sorted(valid, key=lambda n: abs(n - heads))[:3])
    advice = f"take {widths}" + (f", or heads {', '.join(map(str, nearest))}" if nearest else "")
    if d_model % heads:
        raise ConfigError(f"model.d_model={d_model} is not divisible by model.heads={heads}: {advice}")
    raise ConfigError(
        f"model.d_model={d_model} over model.heads={heads} gives heads of odd width {d_model // heads}, "
        f"but rotary positions need it even: {advice}"
    )


def require_patch_divides(lookback: int, patch: int) -> None:
    """Raises ConfigError unless whole patches fill the lookback."""
    if lookback % patch == 0:
        return
    divisors = [n for n in range(1, lookback + 1) if lookback % n == 0]
    below = [n for n in divisors if n < patch][-1:]
    above = [n for n in divisors if n > patch][:1]
    raise ConfigError(
        f"model.patch={patch} does not divide data.lookback={lookback}: "
        f"take patch {' or '.join(map(str, below + above))}"
    )
