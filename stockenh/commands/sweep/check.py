"""Checks of a search before its first trial."""

from __future__ import annotations

import copy
import itertools
from typing import Any

from stockenh.commands.sweep.spec import SearchSpec
from stockenh.config import build
from stockenh.config.catalog import groups
from stockenh.config.overrides import suggest
from stockenh.config.schema import parse
from stockenh.errors import ConfigError

MOST_CORNERS = 2000

# What decides which rows a trial is judged on: two trials that differ there can't be compared.
JUDGED_BY = ("data", "split", "seed")
# What is no part of a model or its training.
OUTSIDE = ("device", "threads", "cache_dir", "sweep", "hydra", "run", "resume", "teacher", "experiment")


def check(spec: SearchSpec) -> None:
    """Tries every corner of the space: keys that exist, values that are allowed, a model that can be built.

    Raises ConfigError naming the parameter or the corner.
    """
    options = groups()
    for parameter in spec.space.parameters:
        if not parameter.helper:
            _refuse_outside(parameter.name)
    corners = list(itertools.islice(spec.space.corners(spec.values.__getitem__), MOST_CORNERS + 1))
    if len(corners) > MOST_CORNERS:
        raise ConfigError(
            f"sweep.params: the model's parameters have more than {MOST_CORNERS:,} combinations of ends, "
            f"and each is tried before the first trial: leave some out or give them fewer choices"
        )
    windows: Any = None
    by_choice: dict[tuple[str, ...], dict[str, Any]] = {}
    for values, keys in corners:
        groups_of = {key: value for key, value in keys.items() if key in options}
        choice = tuple(
            f"{group}={_option(group, value, options[group])}" for group, value in groups_of.items()
        )
        if choice not in by_choice:
            by_choice[choice] = spec.raw_of(choice)
        raw = copy.deepcopy(by_choice[choice])
        for key, value in keys.items():
            if key not in options:
                _set(raw, key, value)
        try:
            config = parse(raw)
            if windows is None:
                windows = config.data.load(build.cache(config)).windows
            build.refuse_misfit(config, windows)
        except ConfigError as error:
            corner = ", ".join(f"{name}={value}" for name, value in values.items())
            raise ConfigError(
                f"sweep.params: a corner of the space is no valid run ({corner}): {error}"
            ) from None


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


def _refuse_outside(name: str) -> None:
    group = name.partition(".")[0]
    if group in JUDGED_BY:
        raise ConfigError(
            f"sweep.params.{name}: trials that differ in {group} are judged on other rows or by luck, and "
            f"can't be compared; a sweep is for one choice of it"
        )
    if group in OUTSIDE:
        raise ConfigError(f"sweep.params.{name} is no part of a model or its training")
