"""Losses per element: what every loss offers, the parts they are built from, and distillation.

Legend: B windows, H horizons. Targets are 0 or 1, smoothed or not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from stockenh.data.batches import Counts, Micro
from stockenh.models import ModelSettings

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

    @property
    def shifts_probabilities(self) -> bool:
        """Whether its smallest value is at logits other than the log odds plus a change of scale.

        The calibration then fits a shift as well.
        """
        return False

    @property
    def gives_returns(self) -> bool:
        """Whether a forecast trained by it has the size of a return, and not only the order of one."""
        return True

    @property
    def trains_quantiles(self) -> bool:
        """Whether it learns from the quantiles of a model that has them."""
        return False

    def check_batch(self, batch: str) -> None:
        """Raises ConfigError where the loss needs other micro batches than those of train.batch."""
        return None

    def check(self, model: ModelSettings) -> None:
        """Raises ConfigError where this model lacks an output that the loss needs."""
        return None

    def fitted(self, up_share: Sequence[float]) -> Loss:
        """The loss fitted to the train part: up_share, H shares of labels above 0."""
        return self

    @abstractmethod
    def elements(self, out: dict[str, Tensor], micro: Micro) -> tuple[Tensor, Tensor]:
        """Unreduced losses of returns and of direction, (B, H) float32 each.

        `out` is the model's output in float32; `micro.y_ret` is in train standard deviations.
        """

    def weights(self, micro: Micro) -> Tensor:
        """(B, H) what each element of the loss of returns weighs."""
        return micro.labelled

    def count(self, micros: Iterable[Micro], count: Counts) -> Counts:
        """What the sums over a group's elements are divided by; count: of its labels."""
        return count


def bernoulli_kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p || q), p = sigmoid(teacher_logits / T), q = sigmoid(logits / T); elementwise, at least 0.

    Each horizon is a separate yes-or-no question. T^2 keeps the size of the gradient as T grows (Hinton
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

    The teacher's loss is Huber between the two forecasts of returns, in train standard deviations, and
    `bernoulli_kl` between their logits of direction; both terms have the weights of the labels' loss. With
    weight 0 it is the labels' loss to the last bit. The teacher's answer is that to the window itself, also
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

    def weights(self, micro: Micro) -> Tensor:
        return self.hard.weights(micro)

    def count(self, micros: Iterable[Micro], count: Counts) -> Counts:
        return self.hard.count(micros, count)

    def elements(self, out: dict[str, Tensor], micro: Micro) -> tuple[Tensor, Tensor]:
        """Raises ValueError for windows without a teacher's answers."""
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
