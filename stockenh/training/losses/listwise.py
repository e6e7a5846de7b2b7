"""ListNet: the order of a day's symbols as a distribution of who comes first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stockenh.training.losses.by_day import ByDay

ABSENT = -1e9  # a logit whose probability is 0, and that has a finite gradient


@dataclass(frozen=True)
class Listwise(ByDay):
    """- sum softmax(scores) log softmax(ret) over the rows of a day: top-one ListNet (Cao et al. 2007).

    scores: normal scores of the labels. The loss says nothing of the mean of `ret`: a forecast ranks the
    symbols of a day, and is no return.
    """

    name = "listwise"

    def of_day(self, forecast: Tensor, scores: Tensor, present: Tensor, same: Tensor) -> Tensor:
        is_absent = (same[:, :, None] * present) == 0  # (B, B, H)

        def log_softmax(x: Tensor) -> Tensor:
            """Of each row among the rows of its day."""
            return x - torch.where(is_absent, ABSENT, x).logsumexp(1)

        # where a whole day is absent the sum is near 0: masked before exp, which would be infinite times 0
        wanted = torch.where(present > 0, log_softmax(scores), ABSENT).exp()
        return -(same @ (wanted * log_softmax(forecast)))
