"""The rank IC of a day as a loss: correlation of the forecasts with the normal scores of the labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stockenh.training.losses.by_day import ByDay

SMALLEST_SQUARES = 1e-12  # the root has no gradient at 0, and a day of equal labels has no spread


@dataclass(frozen=True)
class RankIC(ByDay):
    """1 - corr(ret, ndtri((rank - 0.5) / n)) over the rows of a day.

    The ranks of the labels are fixed; the forecasts enter as they are, so the loss has a gradient. It says
    nothing of the mean and the scale of `ret`: a forecast ranks the symbols of a day, and is no return.
    """

    name = "rank_ic"

    def of_day(self, forecast: Tensor, scores: Tensor, present: Tensor, same: Tensor) -> Tensor:
        rows = (same @ present).clamp(min=1)
        f, s = (present * (x - same @ (present * x) / rows) for x in (forecast, scores))
        squares = (same @ f.square() + SMALLEST_SQUARES) * (same @ s.square() + SMALLEST_SQUARES)
        return 1 - same @ (f * s) / squares.sqrt()
