"""From a loss per element to the one number that is differentiated.

Legend: B windows in a micro batch, H horizons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stockenh.data.batches import Micro
from stockenh.training.losses.base import Loss


class Objective:
    """The weighted mean of a loss over the labels of a whole accumulation group, in float32.

    Each micro batch is divided by the group's count of labels, so that the micro batches of a group add
    up to what one big batch would give, short last groups and missing labels included.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def __call__(self, out: dict[str, Tensor], micro: Micro, count: Tensor) -> Tensor:
        """This micro batch's share of the group's loss, a scalar. count: labels in the whole group.

        With `task_log_var` s (2,) in the model's answer each term is weighted by exp(-s) and s / 2 is
        added (homoscedastic uncertainty, Kendall et al. 2018); s = 0 is the plain sum.
        """
        returns, direction = self.loss.elements({k: v.float() for k, v in out.items()}, micro)
        terms = (
            self.loss.return_weight * ((returns * micro.labelled).sum() / count),
            self.loss.direction_weight * ((direction * micro.labelled).sum() / count),
        )
        log_var = out.get("task_log_var")
        if log_var is None:
            return terms[0] + terms[1]
        share = micro.labelled.sum() / count
        weighted = torch.exp(-log_var.float()) * torch.stack(terms)
        return weighted.sum() + 0.5 * share * log_var.float().sum()
