"""The `sweep` node of the config: numbers with their units, and what they must be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from stockenh.errors import ConfigError

# What a trial can be judged by, and which way is better. Figures are those of a horizon: val.h5.auc.
FIGURES = {
    "accuracy": "maximize",
    "auc": "maximize",
    "log_loss": "minimize",
    "brier": "minimize",
    "mae": "minimize",
}
LOSS = "val_loss"


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
        horizon, _, name = self.metric.removeprefix("val.").partition(".")
        if self.metric == LOSS or (self.metric.startswith("val.") and name in FIGURES):
            return
        known = [LOSS, *(f"val.{horizon if name else 'h5'}.{figure}" for figure in FIGURES)]
        raise ConfigError(
            f"sweep.metric={self.metric}: a trial is judged on validation only, by one of "
            f"{', '.join(known)}, or another horizon's"
        )

    @property
    def direction(self) -> str:
        """Which way the metric is better: minimize or maximize."""
        return FIGURES.get(self.metric.rpartition(".")[2], "minimize")
