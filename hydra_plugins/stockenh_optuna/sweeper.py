"""The plugin itself. Hydra imports it at every start, so that what it needs is imported when it is used."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.stockenh_multirun.sweeper import MultirunSweeper


class OptunaSweeper(MultirunSweeper):
    """Draws the trials of an Optuna study and has them run by the launcher; see `stockenh.sweep`."""

    def run(self, context: HydraContext, config: DictConfig, task: TaskFunction, arguments: list[str]) -> Any:
        from stockenh.commands.sweep.search import search

        return search(context, config, task, arguments)


# what the search is lies in the config group sweep
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="stockenh_optuna",
    node={"_target_": "hydra_plugins.stockenh_optuna.sweeper.OptunaSweeper"},
    provider="stockenh",
)
