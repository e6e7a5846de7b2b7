"""What `stockenh sweep` and `stockenh ablate` share: a multirun that is begun, stopped and taken up again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stockenh.commands.multirun.command import CONFIG_DIR, parts_of, require_harmless
from stockenh.commands.multirun.folder import MultirunFolder
from stockenh.config.overrides import PATH_KEYS, config_folders, suggest, unquoted, value_of
from stockenh.errors import ConfigError
from stockenh.report.terminal import program
from stockenh.storage.files import expanded

MULTIRUN = ("--multirun", "-m")
CONFIG_DIR_FLAGS = ("--config-dir", "-cd")  # with the folder as a word of its own
SHOWS = ("--cfg", "-c", "--info", "-i", "--hydra-help")


def is_taken_up(arguments: list[str]) -> bool:
    """Whether resume=DIR stands among the arguments."""
    return any(key == "resume" and value != "null" for key, value in map(parts_of, arguments))


def begun(arguments: list[str]) -> list[str]:
    """The arguments of a new multirun, as they hold from every folder."""
    shows = any(a.partition("=")[0] in SHOWS for a in arguments)  # the config, and runs nothing
    flag = [] if shows or set(MULTIRUN) & set(arguments) else ["--multirun"]
    return [*flag, *_absolute(arguments)]


def taken_up(arguments: list[str], kind: type[MultirunFolder], keys: Sequence[str]) -> list[str]:
    """The command that the folder of resume=DIR was made by, with what may be other now.

    Raises ConfigError for what is none of `keys` and may not, and where the folder keeps what a stranger's
    must not say; RunFolderError where it is no folder of this kind.
    """
    changed: list[str] = []
    flags: list[str] = []
    folder: MultirunFolder | None = None
    words = iter(arguments)
    arguments = [f"{CONFIG_DIR}{next(words, '')}" if word in CONFIG_DIR_FLAGS else word for word in words]
    for argument in arguments:
        key, _ = parts_of(argument)
        if key == "resume":
            folder = kind(expanded(str(value_of(argument))).absolute())
        elif key in keys:
            changed.append(argument)
        elif argument.startswith(CONFIG_DIR):
            flags.append(argument)
        elif argument not in MULTIRUN:
            raise ConfigError(
                f"{key or argument} can't be given with resume: the {kind.noun} goes on as it began; only "
                f"{', '.join(keys)} may change. {suggest(key or argument, keys)}"
            )
    assert folder is not None
    replaced = {key for key, _ in map(parts_of, changed)}
    began = require_harmless(folder.read()["arguments"], flags, folder.path)
    kept = [a for a in began if parts_of(a)[0] not in replaced]
    return ["--multirun", *flags, *kept, *changed, f"hydra.sweep.dir={folder.path}"]


def stopped(arguments: list[str], kind: type[MultirunFolder], runs: str) -> str:
    """What to say after a stop: how to go on. runs: what those of the multirun are called."""
    where = [value for key, value in map(parts_of, arguments) if key == "hydra.sweep.dir"]
    if where:
        flags = [f"{CONFIG_DIR}{folder.absolute()}" for folder in config_folders(arguments)]
        again = kind(unquoted(where[-1]).absolute()).resume_command(flags)
    else:
        again = f"{program()} {kind.command} resume=DIR, the folder named above"
    return f"stopped; running {runs} saved where they are. Continue with: {again}"


def _absolute(arguments: list[str]) -> list[str]:
    """Paths as they hold from every folder, for the multirun may be taken up from another one."""
    found = []
    for argument in arguments:
        key, value = parts_of(argument)
        path = Path(os.path.expanduser(value)) if value else None
        local = key in PATH_KEYS and not key.startswith("hydra.") and path is not None and path.exists()
        found.append(f"{key}={path.absolute()}" if local and path is not None else argument)
    return found
