"""The config group `averaging`: which averages of the weights are kept beside the weights themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import nn


class Averages:
    """Weights by name. This one keeps the raw weights and nothing else."""

    def update(self, model: nn.Module) -> None:
        """Called after every optimizer step that was taken."""

    def named(self, model: nn.Module) -> dict[str, nn.Module]:
        """The models to validate, by the name of their weights."""
        return {"raw": model}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""


class Averaging(ABC):
    """Settings of the averages."""

    @abstractmethod
    def build(self, model: nn.Module) -> Averages:
        """The averages of a fresh model."""


@dataclass(frozen=True)
class NoAveraging(Averaging):
    """Raw weights only."""

    def build(self, model: nn.Module) -> Averages:
        return Averages()
