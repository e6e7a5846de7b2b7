"""The command line that a multirun's folder keeps, of which an allow-list is followed on resume.

The folder may come from somebody else. Its overrides may set keys of a run and of the search or ablation. A
group's option is a plain name, so that no YAML is composed but the shipped one and that of a --config-dir
which the user names again. What decides where something is written, or what runs jobs, is given again too.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig

from stockenh.commands.multirun.folder import CONFIG_DIR, config_dirs, parts_of
from stockenh.config.catalog import groups
from stockenh.config.overrides import PLAIN_KEY, quote_paths
from stockenh.config.schema import NOT_OF_RUN, RunConfig
from stockenh.errors import ConfigError

# Keys of this machine alone: a folder's own are not followed.
OF_THIS_MACHINE = ("cache_dir", "hydra.sweep.dir", "hydra.run.dir", "hydra.mode", "hydra/sweeper")
LONGEST = 100_000  # characters of one override
MOST_PER_CORE = 4  # workers that a folder's own number may start
_OPTION = re.compile(r"[A-Za-z0-9][\w-]*")


def is_given_again(key: str) -> bool:
    """Whether a resumed multirun takes this key from the command line alone: it decides where the study is
    stored, where runs are sent, or what starts the jobs and how, which may be a shell command."""
    names = ("cache_dir", "sweep.storage", "hydra/launcher", "tracker")
    return key in names or key.startswith(("hydra.launcher", "tracker."))


def given_again(config: DictConfig) -> list[str]:
    """The flags and overrides of a multirun that the command which resumes it must repeat."""
    overrides = config.hydra.overrides
    words = [str(a) for a in (*overrides.hydra, *overrides.task)]
    return [*config_dirs(config), *(a for a in words if is_given_again(parts_of(a)[0]))]


def followed(kept: Sequence[str], given: Sequence[str], folder: Path) -> list[str]:
    """The overrides that a folder keeps and that may be followed; given: those of the command line now, which
    replace those of the same key.

    Raises ConfigError where one of them is not of the allow-list, and where one must be given again.
    """
    keys = {key for key, _ in map(parts_of, given)}
    is_untracked = "tracker=none" in given
    folders = {_folder_of(flag) for flag in given if flag.startswith(CONFIG_DIR)}
    found = []
    for argument in kept:
        key, _ = parts_of(argument)
        if argument.startswith(CONFIG_DIR):
            if _folder_of(argument) not in folders:
                raise ConfigError(
                    f"{folder} was made with options of its own: add {argument} if you trust it"
                )
        elif is_given_again(key) and key != "cache_dir":
            of_tracker = key.startswith("tracker")
            if key not in keys and not (of_tracker and is_untracked):
                instead = ", or tracker=none" if of_tracker else ""
                raise ConfigError(f"{folder} was made with {argument}: add it if you trust it{instead}")
        elif key not in OF_THIS_MACHINE and key not in keys:
            if key.endswith(".n_workers") and "hydra/launcher" not in keys:
                _require_few(argument, folder)
            if (problem := problem_of(argument, folders)) is not None:
                raise ConfigError(f"{folder} keeps {argument!r}, {problem}: it is not followed")
            found.append(argument)
    return found


def _require_few(argument: str, folder: Path) -> None:
    """Raises ConfigError where a folder asks for far more processes than this machine has cores."""
    key, value = parts_of(argument)
    if not value.isdecimal() or int(value[:9]) > MOST_PER_CORE * (os.cpu_count() or 1):
        raise ConfigError(f"{folder} was made with {argument}, too many for this machine: add {key}=N")


def problem_of(argument: str, folders: Collection[Path] = ()) -> str | None:
    """Why an override of an untrusted folder is not followed, or None; folders: of --config-dir."""
    if len(argument) > LONGEST:
        return "which is too long"
    try:
        (text,) = quote_paths([argument], sweeping=True)
        override = OverridesParser.create().parse_override(text)
        return _problem(override, folders)
    except (HydraException, RecursionError, ValueError):
        return "which can't be read"


def _problem(override: Override, folders: Collection[Path]) -> str | None:
    key, options = override.key_or_group, groups(*folders)
    top = key.partition(".")[0]
    allowed = {field.name for field in dataclasses.fields(RunConfig)} | {*options, *NOT_OF_RUN} - {"ledger"}
    if override.package is not None or not PLAIN_KEY.fullmatch(key) or top not in allowed:
        return "which is no key of a run"
    if key in OF_THIS_MACHINE or is_given_again(key):
        return "which only the command line decides"
    value = override.value()
    texts = list(_texts(value.list if isinstance(value, ChoiceSweep) else value))
    is_name = not isinstance(value, list | dict) and all(_OPTION.fullmatch(text) for text in texts)
    if key in options and not is_name:
        return "whose option is not a plain name"
    # an ablation's overrides are checked as they stand here, so nothing may be put in their place later
    if any("${" in text and (":" in text or top == "ablate") for text in texts):
        return "which asks this machine for a value"
    problems = (problem_of(text, folders) for text in _overrides_in({key.rpartition(".")[2]: value}))
    return next((found for found in problems if found is not None), None)


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value. Raises ValueError for a key that a config gives a meaning of its own."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).startswith("_"):
                raise ValueError(f"{key}: not allowed here")
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, QuotedString):
        yield value.text
    elif value is not None and not isinstance(value, Sweep):
        yield str(value)


def _overrides_in(value: Any) -> Iterator[str]:
    """The overrides of an ablation's techniques within a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "overrides" and isinstance(inner, list):
                yield from map(str, inner)
            yield from _overrides_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _overrides_in(inner)


def _folder_of(flag: str) -> Path:
    return Path(flag.removeprefix(CONFIG_DIR)).expanduser().absolute()
