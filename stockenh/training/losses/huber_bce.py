"""The plain loss: Huber on returns, binary cross-entropy on direction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from stockenh.data.batches import Micro
from stockenh.errors import ConfigError
from stockenh.training.losses.base import Loss


@dataclass(frozen=True)
class HuberBCE(Loss):
    """return_weight x Huber(ret, y_ret) + direction_weight x BCE(up_logits, y_up).

    Returns are in train standard deviations per horizon: raw ones (about 0.03) would make the Huber term
    a thousand times smaller than the other, and the return head would learn nothing.
    """

    return_weight: float = 0.6
    direction_weight: float = 0.4
    delta: float = 1.0

    def __post_init__(self) -> None:
        for name in ("return_weight", "direction_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name}={getattr(self, name)} must be 0 or more")
        if self.return_weight + self.direction_weight == 0:
            raise ConfigError("loss.return_weight and loss.direction_weight are both 0: nothing to learn")
        if self.delta <= 0:
            raise ConfigError(f"loss.delta={self.delta} must be above 0")

    def elements(self, out: dict[str, Tensor], micro: Micro) -> tuple[Tensor, Tensor]:
        returns = F.huber_loss(out["ret"], micro.y_ret, reduction="none", delta=self.delta)
        direction = F.binary_cross_entropy_with_logits(out["up_logits"], micro.y_up, reduction="none")
        return returns, direction
