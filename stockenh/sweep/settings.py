"""The `sweep` node of the config: numbers with their units, and what they must be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from stockenh.errors import ConfigError
from stockenh.overrides import suggest

DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class SweepConfig:
    """How long to search, by what, and where the study is kept.

    sampler, pruner: {"name": a class of optuna.samplers or optuna.pruners, and its arguments}
    params:          the search space, see `space.Space`
    """

    n_trials: int = 50
    n_workers: int = 1
    max_hours: float = 6.0
    max_failures: float = 0.5  # share of n_trials
    metric: str = "val_loss"
    direction: str = "minimize"
    storage: str | None = None
    study: str | None = None
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "TPESampler"})
    pruner: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sweep.{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.max_hours < math.inf:
            raise ConfigError(f"sweep.max_hours={self.max_hours} must be a time above 0")
        if not 0 <= self.max_failures <= 1:
            raise ConfigError(f"sweep.max_failures={self.max_failures} is a share: take 0 to 1")
        if self.direction not in DIRECTIONS:
            near = suggest(self.direction, DIRECTIONS, all_options=True)
            raise ConfigError(f"sweep.direction={self.direction}: no such direction. {near}")
        if self.metric != "val_loss" and not self.metric.startswith("val."):
            raise ConfigError(
                f"sweep.metric={self.metric}: a trial is judged on validation only: take val_loss, or a "
                f"figure such as val.h5.auc"
            )
        if self.metric == "val_loss" and self.direction == "maximize":
            raise ConfigError("sweep.direction=maximize with sweep.metric=val_loss seeks the worst model")
