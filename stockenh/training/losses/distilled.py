"""What a student learns: the labels as ever, and the answers of a frozen teacher.

Legend: B windows in a micro batch, H horizons.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from stockenh.data.batches import Micro
from stockenh.training.losses.base import Loss


def bernoulli_kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p || q), p = sigmoid(teacher_logits / T), q = sigmoid(logits / T); elementwise, at least 0.

    Each horizon is a yes-or-no question of its own. T^2 keeps the size of the gradient as T grows (Hinton
    et al. 2015).
    """
    q, p = logits / temperature, teacher_logits / temperature
    return temperature**2 * (
        torch.sigmoid(p) * (F.logsigmoid(p) - F.logsigmoid(q))
        + torch.sigmoid(-p) * (F.logsigmoid(-p) - F.logsigmoid(-q))
    )


@dataclass(frozen=True)
class Distilled(Loss):
    """(1 - weight) x the loss of the labels + weight x that of the teacher.

    The teacher's is Huber between the two forecasts of returns, in train standard deviations, and
    `bernoulli_kl` between their logits of direction; both terms have the weights of the labels' loss.
    With weight 0 it is the labels' loss to the last bit. The teacher answers for the window as it is, also
    where the student sees a noisy view of it.
    """

    hard: Loss
    temperature: float
    weight: float
    return_weight: float = field(init=False)
    direction_weight: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "return_weight", self.hard.return_weight)
        object.__setattr__(self, "direction_weight", self.hard.direction_weight)

    def elements(self, out: dict[str, Tensor], micro: Micro) -> tuple[Tensor, Tensor]:
        """Raises ValueError for windows that no teacher has answered."""
        returns, direction = self.hard.elements(out, micro)
        if micro.teacher is None:
            raise ValueError("a distilled loss needs the teacher's answers to its windows")
        if self.weight == 0:
            return returns, direction
        matched = F.huber_loss(out["ret"], micro.teacher.ret, reduction="none")
        softened = bernoulli_kl(out["up_logits"], micro.teacher.up_logits, self.temperature)
        return (
            (1 - self.weight) * returns + self.weight * matched,
            (1 - self.weight) * direction + self.weight * softened,
        )
