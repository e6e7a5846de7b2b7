"""Hydra plugins of stockenh: the sweepers stockenh_optuna and stockenh_ablate, the launcher stockenh_ray.

Every Hydra program that finds this file imports it when it starts, so it needs nothing but Hydra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
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


class RayLauncher(Launcher):
    """Runs jobs on a Ray cluster; for the settings see `RayConfig`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.given = hydra_context, config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from stockenh.commands.multirun.ray_launcher import RayJobs, launch

        return launch(RayJobs(*self.given), self.settings, job_overrides, initial_job_idx)


RAY = {"address": None, "num_cpus": 1, "num_gpus": None, "resources": None, "runtime_env": None}
for group, name, plugin, settings in (
    ("sweeper", "stockenh_optuna", OptunaSweeper, {}),
    ("sweeper", "stockenh_ablate", AblationSweeper, {}),
    ("launcher", "stockenh_ray", RayLauncher, RAY),
):
    ConfigStore.instance().store(
        group=f"hydra/{group}",
        name=name,
        node={"_target_": f"{__name__}.{plugin.__name__}", **settings},
        provider="stockenh",
    )
