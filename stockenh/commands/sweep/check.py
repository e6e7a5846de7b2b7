"""What can be wrong with a search is said before its first trial."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from stockenh.commands.sweep.space import Space, Values
from stockenh.config import build
from stockenh.config.catalog import groups
from stockenh.config.overrides import suggest
from stockenh.config.schema import RunConfig, parse
from stockenh.errors import ConfigError

MOST_CORNERS = 2000

# What decides which rows a trial is judged on: two trials that differ there can't be compared.
JUDGED_BY = ("data", "split", "seed")
# What is no part of a model or its training.
OUTSIDE = ("device", "threads", "cache_dir", "sweep", "hydra", "run", "resume", "teacher", "experiment")

# The composed config with other options of some groups, as plain containers.
Compose = Callable[[Mapping[str, str]], dict[str, Any]]


def check(space: Space, known: Mapping[str, Any], composed: Compose) -> None:
    """Tries every corner of the space: keys that exist, values that are allowed, a model that can be built.

    known: the config's values by dotted key, for expressions. Raises ConfigError naming the parameter or
    the corner.
    """
    options = groups()
    for parameter in space.parameters:
        _refuse_outside(parameter.name, parameter.helper, options)
    corners = list(itertools.islice(space.corners(known.__getitem__), MOST_CORNERS + 1))
    if len(corners) > MOST_CORNERS:
        raise ConfigError(
            f"sweep.params: the model's parameters have more than {MOST_CORNERS:,} combinations of ends, "
            f"and each is tried before the first trial: leave some out or give them fewer choices"
        )
    windows: Any = None
    by_choice: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for values, keys in corners:
        choices = {key: _option(key, value, options[key]) for key, value in keys.items() if key in options}
        at = tuple(choices.items())
        if at not in by_choice:
            by_choice[at] = composed(choices)
        rest = {key: value for key, value in keys.items() if key not in options}
        config = _config(by_choice[at], rest, values)
        if windows is None:
            windows = config.data.load(build.cache(config)).windows
        try:
            build.refuse_misfit(config, windows)
        except ConfigError as error:
            raise _no_run(values, error) from None


def _config(base: Mapping[str, Any], keys: Values, values: Values) -> RunConfig:
    raw = copy.deepcopy(dict(base))
    for key, value in keys.items():
        _set(raw, key, value)
    try:
        return parse(raw)
    except ConfigError as error:
        raise _no_run(values, error) from None


def _no_run(values: Values, error: ConfigError) -> ConfigError:
    corner = ", ".join(f"{name}={value}" for name, value in values.items())
    return ConfigError(f"sweep.params: a corner of the space is no valid run ({corner}): {error}")


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *path, leaf = key.split(".")
    node: Any = raw
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict) or leaf == "_target_":
        raise ConfigError(
            f"sweep.params.{key}: no such key of the config. {suggest(key, _dotted(raw))} A value that only "
            f"expressions use is declared with helper: true"
        )
    node[leaf] = value


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix.rstrip(".")]
    return [name for k, v in node.items() if k != "_target_" for name in _dotted(v, f"{prefix}{k}.")]


def _option(group: str, value: Any, options: list[str]) -> str:
    if value not in options:
        raise ConfigError(
            f"sweep.params.{group}: no such {group}: {value}. {suggest(str(value), options, True)}"
        )
    return str(value)


def _refuse_outside(name: str, helper: bool, options: Mapping[str, list[str]]) -> None:
    if helper:
        return
    group = name.partition(".")[0]
    if group in JUDGED_BY:
        raise ConfigError(
            f"sweep.params.{name}: trials that differ in {group} are judged on other rows or by luck, and "
            f"can't be compared; a sweep is for one choice of it"
        )
    if group in OUTSIDE:
        raise ConfigError(f"sweep.params.{name} is no part of a model or its training")
