"""Losses of a yes-or-no question, per element: label smoothing and the sigmoid focal loss.

Legend: B windows, H horizons. Targets are 0 or 1, or what smoothing makes of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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
