"""The plugin itself. Hydra imports it at every start, so that what it needs is imported when it is used."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.stockenh_multirun.sweeper import MultirunSweeper


class AblationSweeper(MultirunSweeper):
    """Has the runs of a fixed list made by the launcher, and compares them; see `stockenh.ablation`."""

    def run(self, context: HydraContext, config: DictConfig, task: TaskFunction, arguments: list[str]) -> Any:
        from stockenh.commands.ablate.ablate import ablate

        return ablate(context, config, task, arguments)


# what the ablation is lies in the config group ablate
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="stockenh_ablate",
    node={"_target_": "hydra_plugins.stockenh_ablate.sweeper.AblationSweeper"},
    provider="stockenh",
)
