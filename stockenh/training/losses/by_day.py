"""What losses over the section of a day have in common: the windows of a day are compared with each other.

Legend: B windows in a micro batch, H horizons.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from stockenh.data import NotNegative
from stockenh.data.batches import Counts, Micro
from stockenh.errors import ConfigError
from stockenh.training.losses import Loss

FEWEST_ROWS = 3  # of two rows every correlation is 1 or -1


@dataclass(frozen=True)
class ByDay(Loss):
    """return_weight x the mean over days of `of_day` + direction_weight x binary cross-entropy of direction.

    A day of a horizon counts where it has three labelled rows or more. name: how the config calls the loss
    """

    name: ClassVar[str]
    return_weight: NotNegative = 0.6
    direction_weight: NotNegative = 0.4

    def __post_init__(self) -> None:
        if self.return_weight + self.direction_weight == 0:
            raise ConfigError("loss.return_weight and loss.direction_weight are both 0: nothing to learn")

    @property
    def gives_returns(self) -> bool:
        return False

    def check_batch(self, batch: str) -> None:
        if batch != "date":
            raise ConfigError(
                f"loss={self.name} compares the windows of a day, which train.batch={batch} divides: take "
                f"train.batch=date"
            )

    @abstractmethod
    def of_day(self, forecast: Tensor, scores: Tensor, present: Tensor, same: Tensor) -> Tensor:
        """(B, H) the loss of each row's day, from forecasts and normal scores of the labels (B, H).

        present: (B, H) 1 where a row has a label, else 0; same: (B, B) 1 for two rows of one day, else 0
        """

    def elements(self, out: dict[str, Tensor], micro: Micro) -> tuple[Tensor, Tensor]:
        """Of returns the loss of the row's day."""
        present, same = (micro.labelled > 0).float(), _same_day(micro)
        scores = normal_scores(micro.y_ret, present, same)
        direction = F.binary_cross_entropy_with_logits(out["up_logits"], micro.y_up, reduction="none")
        return self.of_day(out["ret"], scores, present, same), direction

    def weights(self, micro: Micro) -> Tensor:
        """The rows of a day share its weight: 1, or the mean weight of its labels."""
        rows = _same_day(micro) @ (micro.labelled > 0).float()
        return torch.where(rows >= FEWEST_ROWS, micro.labelled / rows.clamp(min=1), 0)

    def count(self, micros: Iterable[Micro], count: Counts) -> Counts:
        """The days in place of the labels."""
        days = torch.stack([self.weights(micro).sum() for micro in micros]).sum()
        return count._replace(labels=torch.where(days > 0, days, 1))


def _same_day(micro: Micro) -> Tensor:
    if micro.day is None:
        raise ValueError("a loss by day needs micro batches of whole days")
    return (micro.day[:, None] == micro.day).float()


def normal_scores(y: Tensor, present: Tensor, same: Tensor) -> Tensor:
    """(B, H) ndtri((rank - 0.5) / n) of labels among the n present rows of their day, 0 for absent rows.

    Equal labels share their mean rank; see `ByDay.of_day`.
    """
    smaller = (y[:, None] > y) + 0.5 * (y[:, None] == y)  # (B, B, H)
    share = torch.einsum("bch,bc,ch->bh", smaller, same, present) / (same @ present).clamp(min=1)
    return torch.where(present > 0, torch.special.ndtri(share), 0)
