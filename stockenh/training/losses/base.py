"""Losses of a yes-or-no question, per element: label smoothing and the sigmoid focal loss.

Legend: B windows, H horizons. Targets are 0 or 1, or what smoothing makes of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stockenh.data.batches import Micro
from stockenh.models.spec import ModelSettings

SMALLEST = 1e-12  # a power below 1 has no gradient at 0


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """y -> y (1 - s) + s / 2, for two classes (Szegedy et al. 2016)."""
    return targets * (1 - smoothing) + smoothing / 2 if smoothing else targets


def focal(logits: Tensor, targets: Tensor, gamma: float, alpha: Tensor | None = None) -> Tensor:
    """alpha_t (1 - p_t)^gamma x binary cross-entropy, (B, H) (Lin et al. 2017).

    With p = sigmoid(logits) and soft targets y, p_t = p y + (1 - p)(1 - y) and
    alpha_t = alpha y + (1 - alpha)(1 - y). alpha: (H,) weight of the upward class, or None for none.
    gamma = 0 without alpha is the binary cross-entropy to the last bit.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if gamma:
        p = torch.sigmoid(logits)
        missed = 1 - (p * targets + (1 - p) * (1 - targets))
        loss = loss * missed.clamp(min=SMALLEST) ** gamma
    if alpha is not None:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


def pinball(quantiles: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    """max(q (y - f), (q - 1) (y - f)), the mean over the levels q; (B, H) (Koenker and Bassett 1978).

    quantiles: (B, H, Q) forecasts f of the levels (Q,); y: (B, H).
    """
    missed = y.unsqueeze(-1) - quantiles
    return torch.maximum(levels * missed, (levels - 1) * missed).mean(-1)


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
