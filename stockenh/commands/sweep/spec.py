"""What a search is: its settings, its space, its folder, and the config that all trials share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from typing_extensions import TypedDict

from stockenh.commands.multirun.folder import IMMATERIAL, MultirunFolder, of_one_run, parsed
from stockenh.commands.runs.listing import flatten
from stockenh.commands.sweep.space import Space, params_of
from stockenh.config.schema import PositiveFinite, plain, settings_of
from stockenh.data import Few
from stockenh.errors import ConfigError
from stockenh.storage.run_folder import AS_WRITTEN, Horizon, PluginOrigin, RunFolder, Scores

# The metrics of a trial, and which way is better. Those of a horizon are written val.h5.auc.
METRICS = {
    "accuracy": "maximize",
    "auc": "maximize",
    "rank_ic": "maximize",
    "log_loss": "minimize",
    "brier": "minimize",
    "mae": "minimize",
}
LOSS = "val_loss"


@dataclass(frozen=True)
class SweepConfig:
    """The `sweep` node of the config: how long to search, by what metric, and where the study is kept.

    sampler, pruner: {"name": a class of optuna.samplers or optuna.pruners, and its arguments}
    params:          the search space, see `space.Space`
    enqueue_base:    whether the first trial of a new study has the config's own values
    """

    n_trials: Annotated[int, Field(ge=1, le=100_000)] = 50  # each is recorded before the first begins
    n_workers: Few = 1
    max_hours: PositiveFinite = 6.0
    max_failures: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of n_trials
    metric: str = LOSS
    storage: str | None = None
    study: str | None = None
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "TPESampler"})
    pruner: dict[str, Any] | None = None
    enqueue_base: bool = True
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        horizon, _, name = self.metric.removeprefix("val.").partition(".")
        if self.metric == LOSS or (self.metric.startswith("val.") and name in METRICS):
            return
        known = [LOSS, *(f"val.{horizon if name else 'h5'}.{metric}" for metric in METRICS)]
        raise ConfigError(
            f"sweep.metric={self.metric}: a trial is judged on validation only, by one of "
            f"{', '.join(known)}, or another horizon's"
        )

    @property
    def direction(self) -> str:
        """Which way the metric is better: minimize or maximize."""
        return METRICS.get(self.metric.rpartition(".")[2], "minimize")


class Look(TypedDict):
    """A look at the test part, in sweep.json: the best trial then, and its scores."""

    trial: int
    after_trials: int
    scores: dict[Horizon, Scores]


class SweepRecord(TypedDict):
    """The content of sweep.json."""

    __pydantic_config__ = AS_WRITTEN  # type: ignore[misc]

    arguments: list[str]
    command: Literal["train", "distill"]
    plugins: NotRequired[list[PluginOrigin]]
    test: NotRequired[list[Look]]


@dataclass(frozen=True)
class SweepFolder(MultirunFolder):
    """Names of the files of one sweep; each of its trials is a run folder named by its number."""

    noun, command, file, written = "sweep", "sweep", "sweep.json", SweepRecord

    def trial(self, number: int) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.path / str(number))


@dataclass(frozen=True)
class SearchSpec:
    """One search, all checked.

    arguments: the overrides that all trials share
    raw:       the config that they give, as plain containers
    choices:   the option of each group
    """

    context: HydraContext
    config: DictConfig
    settings: SweepConfig
    space: Space
    arguments: list[str]
    raw: dict[str, Any]
    choices: dict[str, str]
    folder: SweepFolder

    @classmethod
    def of(cls, context: HydraContext, config: DictConfig, arguments: Sequence[str]) -> SearchSpec:
        """Raises ConfigError where the settings or the space make no sense."""
        if config.get("sweep") is None:
            raise ConfigError("hydra/sweeper=stockenh_optuna needs a search: add sweep=default")
        node = OmegaConf.to_container(config.sweep, resolve=True)
        settings: SweepConfig = settings_of("sweep", SweepConfig, node)
        params, fixed = dict(settings.params), dict[str, str]()
        for argument, override in parsed(context, arguments):
            key = override.key_or_group
            # as with any other override, the last value of a key counts
            if override.is_sweep_override():
                params[key] = params_of(key, override.value())
                fixed.pop(key, None)
            else:
                fixed[key] = argument
        shared = list(fixed.values())
        space = Space.of({key: node for key, node in params.items() if key not in fixed})
        composed = context.config_loader.load_sweep_config(config, shared)
        folder = SweepFolder(Path(str(config.hydra.sweep.dir)).absolute())
        return cls(context, config, settings, space, shared, _raw(composed), choices_of(composed), folder)

    @property
    def command(self) -> str:
        """The command that trains a trial of this search by itself."""
        return "distill" if self.raw.get("teacher") else "train"

    @property
    def values(self) -> dict[str, Any]:
        """The config's values by dotted key, for the expressions of the space; a group is its option."""
        return flatten(self.raw) | self.choices

    def raw_of(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The config of a trial with these overrides, as plain containers."""
        overrides = [*self.arguments, *overrides]
        return _raw(self.context.config_loader.load_sweep_config(self.config, overrides))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What two searches must have in common to be one, by dotted key."""
        settings = {key: value for key, value in flatten(self.raw).items() if not key.startswith(IMMATERIAL)}
        params = {f"sweep.params.{name}": node for name, node in self.space.to_dict().items()}
        judged = {"sweep.metric": self.settings.metric, "sweep.direction": self.settings.direction}
        return {**settings, **judged, **params}


def choices_of(composed: DictConfig) -> dict[str, str]:
    """The option of each group of a composed config."""
    choices = OmegaConf.to_container(composed.hydra.runtime.choices)
    assert isinstance(choices, dict)
    return {str(k): str(v) for k, v in choices.items() if "/" not in str(k) and v is not None}


def _raw(composed: DictConfig) -> dict[str, Any]:
    """The config of a run as plain containers, paths absolute."""
    raw = plain(of_one_run(composed))
    node = raw.get("data")
    if isinstance(node, dict) and isinstance(node.get("path"), str):
        node["path"] = os.path.abspath(os.path.expanduser(node["path"]))
    return raw
