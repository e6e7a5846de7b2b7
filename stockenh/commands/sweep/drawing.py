"""Samplers and pruners of Optuna's, by name from the config, seeded."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from stockenh.commands.sweep.settings import SweepConfig
from stockenh.config.overrides import suggest
from stockenh.errors import ConfigError

# Arguments that the shipped YAML gives: another class that the command line names may not take them.
SHIPPED = {"multivariate", "group", "constant_liar", "n_startup_trials", "n_warmup_steps"}


def pruner_of(settings: SweepConfig) -> optuna.pruners.BasePruner:
    """The pruner that the settings name; it may wrap another. Raises ConfigError."""
    found = settings.pruner
    if found is None:
        return optuna.pruners.NopPruner()
    if found.get("wrapped_pruner"):
        found = {**found, "wrapped_pruner": _made("pruner", optuna.pruners, found["wrapped_pruner"])}
    made: optuna.pruners.BasePruner = _made("pruner", optuna.pruners, found)
    return made


def sampler_of(settings: SweepConfig, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial. Raises ConfigError.

    Its seed depends on the trial's number and on nothing that went before, so that a resumed study draws
    what an uninterrupted one would. The points of a quasi-random sequence and of a grid share one seed.
    """
    shared = settings.sampler.get("name") in ("QMCSampler", "GridSampler")
    own = seed if shared else (seed * 1_000_003 + number) % 2**32
    made: optuna.samplers.BaseSampler = _made("sampler", optuna.samplers, {**settings.sampler, "seed": own})
    return made


def _made(kind: str, package: Any, node: Mapping[str, Any]) -> Any:
    arguments = {key: value for key, value in node.items() if key != "name"}
    name = str(node.get("name"))
    known = [n for n in package.__all__ if n.endswith(("Sampler", "Pruner")) and not n.startswith("Base")]
    if name not in known:
        raise ConfigError(f"sweep.{kind}.name={name}: no such {kind}. {suggest(name, known, True)}")
    kind_of = getattr(package, name)
    taken = inspect.signature(kind_of).parameters
    arguments = {key: value for key, value in arguments.items() if key in taken or key not in SHIPPED}
    try:
        with warnings.catch_warnings():  # what the config names is the user's choice
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind_of(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sweep.{kind}: no such {name}: {str(error).splitlines()[0]}") from None
