"""The config group `optimizer`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from stockenh.errors import ConfigError


class OptimizerSettings(ABC):
    """Settings of an optimizer; `lr` is the peak of the schedule."""

    lr: float

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over all parameters."""


@dataclass(frozen=True)
class AdamW(OptimizerSettings):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's fused form."""

    lr: float = 1e-3
    weight_decay: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"optimizer.lr={self.lr} must be above 0 and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optimizer.weight_decay={self.weight_decay} must be 0 or more and finite")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
