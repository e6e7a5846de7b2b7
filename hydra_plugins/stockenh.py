"""Hydra sweepers of stockenh: `hydra/sweeper=stockenh_optuna` and `hydra/sweeper=stockenh_ablate`.

Every Hydra program that finds this file imports it when it starts, so it needs nothing but Hydra.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StockenhSweeper(Sweeper):
    """Keeps what Hydra sets it up with. Abstract, so that Hydra lists only the sweepers derived from it."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config


class OptunaSweeper(StockenhSweeper):
    """Runs the trials of an Optuna study; the settings lie in the config group sweep."""

    def sweep(self, arguments: list[str]) -> Any:
        from stockenh.commands.sweep.search import search

        return search(self.hydra_context, self.config, self.task_function, arguments)


class AblationSweeper(StockenhSweeper):
    """Runs a fixed list of recipes and compares them; the settings lie in the config group ablate."""

    def sweep(self, arguments: list[str]) -> Any:
        from stockenh.commands.ablate.run import ablate

        return ablate(self.hydra_context, self.config, self.task_function, arguments)


for name, sweeper in (("stockenh_optuna", OptunaSweeper), ("stockenh_ablate", AblationSweeper)):
    ConfigStore.instance().store(
        group="hydra/sweeper",
        name=name,
        node={"_target_": f"{__name__}.{sweeper.__name__}"},
        provider="stockenh",
    )
