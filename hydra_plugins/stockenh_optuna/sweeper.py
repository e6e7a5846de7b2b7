"""The plugin itself. Hydra imports it at every start, so that what it needs is imported when it is used."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Draws the trials of an Optuna study and has them run by the launcher; see `stockenh.sweep`."""

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
        from stockenh.sweep.search import search

        assert self.hydra_context is not None and self.config is not None and self.task_function is not None
        return search(self.hydra_context, self.config, self.task_function, arguments)


# what the search is lies in the config group sweep
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="stockenh_optuna",
    node={"_target_": "hydra_plugins.stockenh_optuna.sweeper.OptunaSweeper"},
    provider="stockenh",
)
