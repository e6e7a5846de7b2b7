"""A Hydra sweeper in all but what it runs.

Every Hydra program that finds this package imports it at its start, so it needs nothing but Hydra.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MultirunSweeper(Sweeper):
    """Keeps what Hydra sets it up with. Abstract, or Hydra would list it beside the sweepers made of it."""

    def __init__(self) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        assert self.hydra_context is not None and self.config is not None and self.task_function is not None
        return self.run(self.hydra_context, self.config, self.task_function, arguments)

    @abstractmethod
    def run(self, context: HydraContext, config: DictConfig, task: TaskFunction, arguments: list[str]) -> Any:
        """Runs the whole multirun; arguments: the overrides that all its jobs share."""
