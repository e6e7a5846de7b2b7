"""What a loss is: two numbers for every window and horizon, before any averaging.

Legend: B windows in a micro batch, H horizons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from stockenh.data.batches import Micro
from stockenh.models.spec import ModelSettings


class Loss(ABC):
    """Settings and formula of a loss. A new one is a file beside this and a YAML in conf/loss.

    The objective takes the mean over all labels of a whole accumulation group, so an element must not
    depend on how many others there are.
    """

    return_weight: float
    direction_weight: float

    def check(self, model: ModelSettings) -> None:
        """Raises ConfigError where this model doesn't answer what the loss is of."""
        return None

    def fitted(self, up_share: Sequence[float]) -> Loss:
        """The loss with what it takes from the train part: up_share, H shares of labels above 0."""
        return self

    @abstractmethod
    def elements(self, out: dict[str, Tensor], micro: Micro) -> tuple[Tensor, Tensor]:
        """Unreduced losses of returns and of direction, (B, H) float32 each.

        `out` is the model's answer in float32; `micro.y_ret` is in train standard deviations.
        """
