"""The plugin itself. Hydra imports it at every start, so that what it needs is imported when it is used."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class AblationSweeper(Sweeper):
    """Has the runs of a fixed list made by the launcher, and compares them; see `stockenh.ablation`."""

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
        from stockenh.ablation.ablate import ablate

        assert self.hydra_context is not None and self.config is not None and self.task_function is not None
        return ablate(self.hydra_context, self.config, self.task_function, arguments)


# what the ablation is lies in the config group ablate
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="stockenh_ablate",
    node={"_target_": "hydra_plugins.stockenh_ablate.sweeper.AblationSweeper"},
    provider="stockenh",
)
