"""A search as it was asked for: the settings, the space, and the config that all its trials share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from stockenh.commands.multirun.folder import IMMATERIAL
from stockenh.commands.runs.listing import flatten
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.commands.sweep.settings import SweepConfig
from stockenh.commands.sweep.space import Space, params_of
from stockenh.config.schema import plain, settings_of
from stockenh.errors import ConfigError


@dataclass(frozen=True)
class Search:
    """What is searched and how.

    arguments: the overrides that all trials share
    raw:       the config that they give, as plain containers
    choices:   the option of each group
    """

    context: HydraContext
    config: DictConfig
    task: TaskFunction
    settings: SweepConfig
    space: Space
    arguments: list[str]
    raw: dict[str, Any]
    choices: dict[str, str]
    folder: SweepFolder

    @classmethod
    def of(
        cls, context: HydraContext, config: DictConfig, task: TaskFunction, arguments: Sequence[str]
    ) -> Search:
        """Raises ConfigError where the settings or the space make no sense."""
        if config.get("sweep") is None:
            raise ConfigError("hydra/sweeper=stockenh_optuna needs a search: add sweep=default")
        node = OmegaConf.to_container(config.sweep, resolve=True)
        settings: SweepConfig = settings_of("sweep", SweepConfig, node)
        params, fixed = dict(settings.params), dict[str, str]()
        parser = OverridesParser.create(config_loader=context.config_loader)
        for argument, override in zip(arguments, parser.parse_overrides(list(arguments)), strict=True):
            key = override.key_or_group
            # as with any other override, the last word on a key counts
            if override.is_sweep_override():
                params[key] = params_of(key, override.value())
                fixed.pop(key, None)
            else:
                fixed[key] = argument
        base = list(fixed.values())
        space = Space.of({key: node for key, node in params.items() if key not in fixed})
        composed = context.config_loader.load_sweep_config(config, base)
        choices = OmegaConf.to_container(composed.hydra.runtime.choices)
        assert isinstance(choices, dict)
        options = {str(k): str(v) for k, v in choices.items() if "/" not in str(k) and v is not None}
        folder = SweepFolder(Path(str(config.hydra.sweep.dir)).absolute())
        return cls(context, config, task, settings, space, base, _raw(composed), options, folder)

    @property
    def known(self) -> dict[str, Any]:
        """The config's values by dotted key, for the expressions of the space; a group is its option."""
        return flatten(self.raw) | self.choices

    def composed(self, choices: Mapping[str, str]) -> dict[str, Any]:
        """The config with other options of some groups."""
        return self.raw_of([f"{group}={option}" for group, option in choices.items()])

    def raw_of(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The config of a trial with these overrides."""
        return _raw(self.context.config_loader.load_sweep_config(self.config, [*self.arguments, *overrides]))

    def plainly(self, overrides: list[str]) -> dict[str, Any]:
        """The config that these overrides and nothing else give; what only a user can name is ???."""
        composed = self.context.config_loader.load_configuration(
            str(self.config.hydra.job.config_name).removesuffix("_of_run"), overrides, RunMode.RUN
        )
        found = OmegaConf.to_container(_without_sweep(composed), resolve=True)
        assert isinstance(found, dict)
        return {str(key): value for key, value in found.items()}

    @property
    def made_of(self) -> dict[str, Any]:
        """What two searches must have in common to be one, by dotted key."""
        settings = {key: value for key, value in flatten(self.raw).items() if not key.startswith(IMMATERIAL)}
        params = {f"sweep.params.{name}": node for name, node in self.space.to_dict().items()}
        judged = {"sweep.metric": self.settings.metric, "sweep.direction": self.settings.direction}
        return {**settings, **judged, **params}


def _raw(composed: DictConfig) -> dict[str, Any]:
    """The config of a run as plain containers, paths absolute."""
    raw = plain(_without_sweep(composed))
    node = raw.get("data")
    if isinstance(node, dict) and isinstance(node.get("path"), str):
        node["path"] = os.path.abspath(os.path.expanduser(node["path"]))
    return raw


def _without_sweep(composed: DictConfig) -> DictConfig:
    copied = composed.copy()
    with open_dict(copied):
        copied.pop("hydra", None)
        copied.pop("sweep", None)
    return copied
