"""The quantile loss of forecasts that are quantiles.

Legend: B windows, H horizons, Q quantiles.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pinball(quantiles: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    """max(q (y - f), (q - 1) (y - f)), the mean over the levels q; (B, H) (Koenker and Bassett 1978).

    quantiles: (B, H, Q) forecasts f of the levels (Q,); y: (B, H).
    """
    missed = y.unsqueeze(-1) - quantiles
    return torch.maximum(levels * missed, (levels - 1) * missed).mean(-1)
