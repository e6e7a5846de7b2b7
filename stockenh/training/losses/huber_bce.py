"""Huber or pinball on returns plus cross-entropy on direction, which may be smoothed or focal."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stockenh.data import NotNegative, Share, ShareOrZero
from stockenh.data.batches import Micro
from stockenh.errors import ConfigError
from stockenh.models import ModelSettings
from stockenh.training.losses import Loss, focal, pinball, smooth

NO_QUANTILES = (
    "loss.returns=pinball needs quantiles, and this model has none: use model=tft_xl or loss.returns=auto"
)


@dataclass(frozen=True)
class HuberBCE(Loss):
    """return_weight x Huber(ret, y_ret) + direction_weight x focal(up_logits, smooth(y_up)).

    Returns are in train standard deviations per horizon: raw ones (about 0.03) would make the Huber term
    a thousand times smaller than the other, and the return head would learn nothing. With smoothing 0,
    gamma 0 and no alpha the second term is the plain binary cross-entropy.

    returns: "huber" on the forecast return, "pinball" on the quantiles of a model that has them, "auto":
             pinball where there are quantiles, else Huber
    alpha:  weight of the upward class; "auto" is 1 - its share of the train labels, per horizon; null: none
    alphas: (H) the same per horizon, once it is fitted; not a setting
    """

    return_weight: NotNegative = 0.6
    direction_weight: NotNegative = 0.4
    returns: Literal["auto", "huber", "pinball"] = "auto"
    delta: Annotated[float, Field(gt=0)] = 1.0
    smoothing: ShareOrZero = 0.0
    gamma: NotNegative = 0.0
    alpha: Share | Literal["auto"] | None = None
    alphas: Annotated[tuple[float, ...] | None, Field(exclude=True)] = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.return_weight + self.direction_weight == 0:
            raise ConfigError("loss.return_weight and loss.direction_weight are both 0: nothing to learn")

    @property
    def shifts_probabilities(self) -> bool:
        """An alpha weighs one class more: without gamma it moves the log odds by log(alpha / (1 - alpha))."""
        return self.alpha not in (None, 0.5)

    @property
    def trains_quantiles(self) -> bool:
        return self.returns != "huber" and self.return_weight > 0

    def check(self, model: ModelSettings) -> None:
        if self.returns == "pinball" and not model.gives_quantiles:
            raise ConfigError(NO_QUANTILES)

    def fitted(self, up_share: Sequence[float]) -> HuberBCE:
        if self.alpha is None:
            return self
        fitted = replace(self)
        alphas = tuple(1 - up if isinstance(self.alpha, str) else self.alpha for up in up_share)
        object.__setattr__(fitted, "alphas", alphas)
        return fitted

    def elements(self, out: dict[str, Tensor], micro: Micro) -> tuple[Tensor, Tensor]:
        returns = self._return_loss(out, micro.y_ret)
        logits = out["up_logits"]
        alpha = None if self.alphas is None else _tensor(self.alphas, logits.device)
        return returns, focal(logits, smooth(micro.y_up, self.smoothing), self.gamma, alpha)

    def _return_loss(self, out: dict[str, Tensor], y: Tensor) -> Tensor:
        if self.returns == "pinball" and "quantiles" not in out:
            raise ConfigError(NO_QUANTILES)
        if self.returns == "huber" or "quantiles" not in out:
            return F.huber_loss(out["ret"], y, reduction="none", delta=self.delta)
        return pinball(out["quantiles"], y, out["quantile_levels"])


@functools.cache
def _tensor(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied to a device once: a copy at every step would make the host wait."""
    return torch.tensor(values, device=device)
