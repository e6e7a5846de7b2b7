"""Starting and resuming a multirun: the command line that it keeps, and what of a kept one is followed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from stockenh.commands.multirun.folder import CONFIG_DIR, MultirunFolder, parts_of
from stockenh.config.overrides import (
    PATH_KEYS,
    config_folders,
    suggest,
    unquoted,
    value_of,
)
from stockenh.errors import ConfigError, Stopped
from stockenh.report.terminal import program
from stockenh.storage.files import expanded

MULTIRUN = ("--multirun", "-m")
CONFIG_DIR_FLAGS = ("--config-dir", "-cd")  # with the folder as a word of its own
SHOWS = ("--cfg", "-c", "--info", "-i", "--hydra-help")
# An interpolation of what other overrides may say, a _target_ among it.
_OUTSIDE_HYDRA = re.compile(r"\$\{(?!hydra\.)")


def start_or_resume(
    arguments: list[str],
    kind: type[MultirunFolder],
    keys: Sequence[str],
    jobs: str,
    run: Callable[[list[str]], None],
) -> None:
    """A new multirun, or with resume=DIR an old one; run: takes the whole command line.

    keys: what may change on resume; jobs: what the runs are called. Raises Stopped after a Ctrl-C.
    """
    arguments = resume_arguments(arguments, kind, keys) if is_resumed(arguments) else new_arguments(arguments)
    try:
        run(arguments)
    except KeyboardInterrupt:
        raise Stopped(stop_message(arguments, kind, jobs)) from None


def is_resumed(arguments: list[str]) -> bool:
    """Whether resume=DIR stands among the arguments."""
    return any(key == "resume" and value != "null" for key, value in map(parts_of, arguments))


def new_arguments(arguments: list[str]) -> list[str]:
    """The arguments of a new multirun, with paths that hold from every folder."""
    shows = any(a.partition("=")[0] in SHOWS for a in arguments)  # the config, and runs nothing
    flag = [] if shows or set(MULTIRUN) & set(arguments) else ["--multirun"]
    return [*flag, *map(_with_absolute_path, arguments)]


def resume_arguments(arguments: list[str], kind: type[MultirunFolder], keys: Sequence[str]) -> list[str]:
    """The command that made the folder of resume=DIR, with the arguments that may differ now.

    Raises ConfigError for an argument that is none of `keys`, and where the folder keeps one that an
    untrusted folder must not decide; RunFolderError where it is no folder of this kind.
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


def stop_message(arguments: list[str], kind: type[MultirunFolder], jobs: str) -> str:
    """The line after a stop, with the command that resumes; jobs: what the runs are called."""
    where = [value for key, value in map(parts_of, arguments) if key == "hydra.sweep.dir"]
    if where:
        flags = [f"{CONFIG_DIR}{folder.absolute()}" for folder in config_folders(arguments)]
        again = kind(unquoted(where[-1]).absolute()).resume_command(flags)
    else:
        again = f"{program()} {kind.command} resume=DIR, the folder named above"
    return f"stopped; running {jobs} saved where they are. Continue with: {again}"


def require_harmless(kept: Sequence[str], flags: Sequence[str], folder: Path) -> list[str]:
    """The overrides of the command that a folder keeps, which may be untrusted.

    Raises ConfigError where one of them reaches what Hydra itself is made of, and where a folder of options
    (--config-dir) is not among `flags`, with which the person who trusts it has given it again.
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


def _is_harmless(key: str, value: str) -> bool:
    if key in ("hydra/launcher", "hydra/sweeper"):
        return value.replace("_", "").isalnum()
    if key.startswith("hydra.launcher."):
        return "_target_" not in key + value and not _OUTSIDE_HYDRA.search(value)
    return key in ("hydra.sweep.dir", "hydra.run.dir", "hydra.mode")


def _folder_of(flag: str) -> Path:
    return Path(flag.removeprefix(CONFIG_DIR)).expanduser().absolute()


def _with_absolute_path(argument: str) -> str:
    """A path as it holds from every folder, for the multirun may be resumed from another one."""
    key, value = parts_of(argument)
    path = Path(value).expanduser()
    if value and key in PATH_KEYS and not key.startswith("hydra.") and path.exists():
        return f"{key}={path.absolute()}"
    return argument
