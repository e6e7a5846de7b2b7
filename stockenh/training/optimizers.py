"""The config group `optimizer`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from stockenh.errors import ConfigError

AUTO = "auto"


@dataclass(frozen=True)
class OptimizerSettings(ABC):
    """Settings of an optimizer; `lr` is the peak of the schedule, or "auto": a range test finds it."""

    lr: float | int | str = 1e-3  # OmegaConf takes whole numbers into a union only where it names int

    def __post_init__(self) -> None:
        if self.lr == AUTO:
            return
        try:
            lr = float(self.lr)
        except ValueError:
            raise ConfigError(f"optimizer.lr={self.lr} is not a number, nor auto") from None
        if not 0 < lr < math.inf:
            raise ConfigError(f"optimizer.lr={self.lr} must be above 0 and finite")
        object.__setattr__(self, "lr", lr)

    @property
    def peak(self) -> float:
        """`lr` as a number. Raises ConfigError while it is to be found."""
        if self.lr == AUTO:
            raise ConfigError("optimizer.lr=auto must be found first; give a number here")
        return float(self.lr)

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over all parameters."""


@dataclass(frozen=True)
class AdamW(OptimizerSettings):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's fused form."""

    weight_decay: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optimizer.weight_decay={self.weight_decay} must be 0 or more and finite")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.peak, weight_decay=self.weight_decay, fused=True)
