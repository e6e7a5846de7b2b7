"""Hydra at work for a subcommand: composing, run folders and multirun, with errors in one or two lines."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stockenh.config import suggest
from stockenh.errors import ConfigError
from stockenh.overrides import conf_dir, config_folders, groups, options_with_key, quote_paths, split_override

MULTIRUN_FLAGS = ("-m", "--multirun")


def run(task: Callable[[DictConfig], Any], arguments: list[str]) -> None:
    """Calls `task` with the composed config, in a run folder of Hydra's; once per job under --multirun.

    Raises ConfigError where the config can't be composed, and whatever the task raises.
    """
    sweeping = any(flag in arguments for flag in MULTIRUN_FLAGS)
    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [argv[0], *quote_paths(arguments, sweeping)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, arguments)) from None
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def compose(arguments: list[str]) -> DictConfig:
    """The composed config alone, without a run folder. Raises ConfigError."""
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose("config", quote_paths(arguments))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, arguments)) from None


def explain(error: Exception, arguments: list[str]) -> str:
    """One or two lines for a composition error: the override at fault and the nearest valid names."""
    text = str(error)
    known = groups(*config_folders(arguments))
    if found := re.search(r"Could not find '([^'/]+)/([^']+)'", text):
        group, option = found.groups()
        return f"{group}={option}: no such {group}. {suggest(option, known.get(group, []), all_options=True)}"
    if found := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        return _unknown_key(found[1] or found[2], known, arguments)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cause = str(error.__cause__).splitlines()[0] if error.__cause__ else ""
    return ". ".join(dict.fromkeys([*lines[:2], cause] if cause else lines[:2]))


def _unknown_key(key: str, known: dict[str, list[str]], arguments: list[str]) -> str:
    group, _, rest = key.partition(".")
    if rest and (elsewhere := options_with_key(group, rest)):
        return f"{key} belongs to {' or '.join(elsewhere)}: add that to the command"
    names = [*known, *_keys_with_choices(known, arguments)]
    return (
        f"{key}: no such key. {suggest(key, names)}" if rest or suggest(key, names) else f"{key}: no such key"
    )


def _keys_with_choices(known: dict[str, list[str]], arguments: list[str]) -> list[str]:
    """The dotted keys of the config that the valid group choices among the arguments give."""
    choices = [
        argument
        for argument in arguments
        if (parts := split_override(argument)) and parts[1] in known.get(parts[0], [])
    ]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("config", choices)
    return _dotted(OmegaConf.to_container(config, resolve=False))


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict) or not node:
        return [prefix.rstrip(".")]
    return [name for k, v in node.items() if k != "_target_" for name in _dotted(v, f"{prefix}{k}.")]
