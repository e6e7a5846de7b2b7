"""`stockenh.data.features.alignment` at the last bar as one graph, calendar included.

Legend: B symbols, T bars, P timeframes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stockenh.data.features import FIRST_MONDAY, MONTHS, SECONDS, TOLERANCE, parse_timeframe

_OLDEST = 1023  # periods; what an average keeps of older ones is below float64's resolution
_EPOCH = 719_468  # days from 0000-03-01 to 1970-01-01


class Timeframes(nn.Module):
    """`alignment` on every timeframe, those of the clock before those of the calendar inside."""

    seconds: Tensor
    origin: Tensor
    months: Tensor
    order: Tensor
    alphas: Tensor
    kept: Tensor

    def __init__(self, timeframes: Sequence[str]) -> None:
        super().__init__()
        parsed = [parse_timeframe(timeframe) for timeframe in timeframes]
        clock = [place for place, (_, unit) in enumerate(parsed) if unit in SECONDS]
        calendar = [place for place, (_, unit) in enumerate(parsed) if unit in MONTHS]
        alphas = [2.0 / (span + 1) for span in (9, 21)]
        for name, values in {
            "seconds": [parsed[i][0] * SECONDS[parsed[i][1]] for i in clock],
            "origin": [FIRST_MONDAY if parsed[i][1] == "w" else 0 for i in clock],
            "months": [parsed[i][0] * MONTHS[parsed[i][1]] for i in calendar],
            "alphas": alphas,
            "kept": [(1.0 - alpha) ** np.arange(_OLDEST + 1) for alpha in alphas],
        }.items():
            self.register_buffer(name, torch.tensor(np.asarray(values, np.float64)))
        self.register_buffer("order", torch.tensor(np.argsort(clock + calendar), dtype=torch.int64))

    def forward(self, time: Tensor, close: Tensor) -> Tensor:
        """(B, P) from time (B, T) and close (B, T)."""
        if not len(self.order):
            return close[:, :0]
        groups = self._groups(time.double()[:, None])
        change = (groups[..., 1:] != groups[..., :-1]).long()
        period = F.pad(change.cumsum(-1), (1, 0))  # (B, P, T)
        is_last = F.pad(change, (0, 1), value=1)
        age = (period[..., -1:] - period).clamp(max=_OLDEST)
        last = close[:, -1, None]
        closes, is_first = is_last * close[:, None], (period == 0).double()
        fast, slow = (
            (closes * (alpha + (1.0 - alpha) * is_first) * kept[age]).sum(-1)
            for alpha, kept in zip(self.alphas, self.kept, strict=True)
        )
        margin = TOLERANCE * last
        up = (last - fast > margin) & (fast - slow > margin)
        down = (fast - last > margin) & (slow - fast > margin)
        trend: Tensor = up.double() - down.double()
        return trend[:, self.order]

    def _groups(self, time: Tensor) -> Tensor:
        """(B, P, T) numbers of calendar periods from (B, 1, T) seconds; whole numbers in fp64."""
        by_clock = torch.floor((time - self.origin[:, None]) / self.seconds[:, None])
        if not len(self.months):
            return by_clock
        by_month = torch.floor(_month(torch.floor(time / 86_400.0)) / self.months[:, None])
        return torch.cat([by_clock, by_month], 1)


def _month(day: Tensor) -> Tensor:
    """Months since January 1970 of days since 1970-01-01 in the Gregorian calendar; whole numbers in fp64.

    Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March.
    """
    day = day + _EPOCH
    era = torch.floor(day / 146_097)
    day = day - 146_097 * era
    year = torch.floor(
        (day - torch.floor(day / 1460) + torch.floor(day / 36_524) - torch.floor(day / 146_096)) / 365
    )
    day = day - (365 * year + torch.floor(year / 4) - torch.floor(year / 100))
    month = torch.floor((5 * day + 2) / 153)
    return 12 * (year + 400 * era - 1970) + month + 2
