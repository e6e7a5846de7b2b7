"""The command that a multirun's folder keeps: what is written of it, and what of a stranger's is followed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from stockenh.config.overrides import split_override
from stockenh.errors import ConfigError

CONFIG_DIR = "--config-dir="
# What Hydra is told anew each time that the folder is taken up.
OF_ONE_CALL = ("hydra.sweep.dir", "hydra.mode")
# An interpolation of what other overrides may say, a _target_ among it.
_OUTSIDE_HYDRA = re.compile(r"\$\{(?!hydra\.)")


def config_dirs(config: DictConfig) -> list[str]:
    """The flag by which a command named a folder of options of its own, which is no override."""
    sources = config.hydra.runtime.config_sources
    return [f"{CONFIG_DIR}{source.path}" for source in sources if source.provider == "command-line"]


def kept_arguments(config: DictConfig) -> list[str]:
    """The flags and overrides that this multirun was begun with, all that its folder must keep."""
    overrides = config.hydra.overrides
    given = [str(a) for a in (*overrides.hydra, *overrides.task)]
    return [*config_dirs(config), *(a for a in given if parts_of(a)[0] not in OF_ONE_CALL)]


def require_harmless(kept: Sequence[str], flags: Sequence[str], folder: Path) -> list[str]:
    """The overrides of the command that a folder keeps, which may be a stranger's.

    Raises ConfigError where one of them reaches what Hydra itself is made of, and where options of one's own
    (--config-dir) are not among `flags`, which the person who trusts them has given again.
    """
    trusted = {_folder_of(flag) for flag in flags}
    overrides = []
    for argument in kept:
        key, value = parts_of(argument)
        if argument.startswith(CONFIG_DIR):
            if _folder_of(argument) not in trusted:
                raise ConfigError(
                    f"{folder} was made with options of its own: add {argument} if you trust it"
                )
            continue
        if argument.startswith("-") or (key.startswith("hydra") and not _is_harmless(key, value)):
            raise ConfigError(f"{folder} keeps {argument}, which a folder must not say: it is not followed")
        overrides.append(argument)
    return overrides


def parts_of(argument: str) -> tuple[str, str]:
    """The key and the value of an override; empty for a flag."""
    return split_override(argument) or ("", "")


def _folder_of(flag: str) -> Path:
    return Path(flag.removeprefix(CONFIG_DIR)).expanduser().absolute()


def _is_harmless(key: str, value: str) -> bool:
    if key in ("hydra/launcher", "hydra/sweeper"):
        return value.replace("_", "").isalnum()
    if key.startswith("hydra.launcher."):
        return "_target_" not in key + value and not _OUTSIDE_HYDRA.search(value)
    return key in ("hydra.sweep.dir", "hydra.run.dir", "hydra.mode")
