"""Starting and resuming a multirun: the command line that it keeps, and what of a kept one is followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stockenh.commands.multirun.folder import CONFIG_DIR, MultirunFolder, parts_of, require_plugins
from stockenh.commands.multirun.kept import followed, is_given_again
from stockenh.commands.multirun.stops import MultirunStopped
from stockenh.config.catalog import PATH_KEYS
from stockenh.config.overrides import config_folders, suggest, unquoted, value_of
from stockenh.errors import ConfigError, Stopped
from stockenh.report.terminal import program
from stockenh.storage.files import expanded
from stockenh.storage.untrusted import require_plain_folder

MULTIRUN = ("--multirun", "-m")
CONFIG_DIR_FLAGS = ("--config-dir", "-cd")  # with the folder as a word of its own
SHOWS = ("--cfg", "-c", "--info", "-i", "--hydra-help")


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
    except KeyboardInterrupt as stop:
        became = stop.stop.text(jobs) if isinstance(stop, MultirunStopped) else None
        raise Stopped(stop_message(arguments, kind, became)) from None


def is_resumed(arguments: list[str]) -> bool:
    """Whether resume=DIR stands among the arguments."""
    return any(key == "resume" and value != "null" for key, value in map(parts_of, arguments))


def new_arguments(arguments: list[str]) -> list[str]:
    """The arguments of a new multirun, with paths that hold from every folder."""
    for argument in arguments:
        if parts_of(argument)[0] == "hydra.run.dir":
            raise ConfigError(
                f"{argument}: the folder of many runs is hydra.sweep.dir={parts_of(argument)[1] or 'DIR'}"
            )
    shows = any(a.partition("=")[0] in SHOWS for a in arguments)  # the config, and runs nothing
    flag = [] if shows or set(MULTIRUN) & set(arguments) else ["--multirun"]
    return [*flag, *map(_with_absolute_path, arguments)]


def resume_arguments(arguments: list[str], kind: type[MultirunFolder], keys: Sequence[str]) -> list[str]:
    """The command that made the folder of resume=DIR, with the arguments that may differ now.

    Raises ConfigError for an argument that is none of `keys`, and where the folder, which may be untrusted,
    keeps one that is not followed; RunFolderError where it is no folder of this kind.
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
        elif key in keys or is_given_again(key):
            changed.append(argument)
        elif argument.startswith(CONFIG_DIR):
            flags.append(argument)
        elif argument not in MULTIRUN:
            raise ConfigError(
                f"{key or argument} can't be given with resume: the {kind.noun} goes on as it began; only "
                f"{', '.join(keys)} may change. {suggest(key or argument, keys)}"
            )
    assert folder is not None
    require_plain_folder(folder.path, to_write=True)
    replaced = {key for key, _ in map(parts_of, changed)}
    about = folder.read()
    require_plugins(folder.path, about.get("plugins", ()))
    began = followed(about["arguments"], [*flags, *changed], folder.path)
    kept = [a for a in began if parts_of(a)[0] not in replaced]
    return ["--multirun", *flags, *kept, *changed, f"hydra.sweep.dir={folder.path}"]


def stop_message(arguments: list[str], kind: type[MultirunFolder], became: str | None) -> str:
    """The line after a stop, with the command that resumes; became: what became of the runs, if any began."""
    where = [value for key, value in map(parts_of, arguments) if key == "hydra.sweep.dir"]
    if where:
        flags = [f"{CONFIG_DIR}{folder.absolute()}" for folder in config_folders(arguments)]
        flags += [argument for argument in arguments if is_given_again(parts_of(argument)[0])]
        again = kind(unquoted(where[-1]).absolute()).resume_command(flags)
    else:
        again = f"{program()} {kind.command} resume=DIR, the folder named above"
    return f"stopped; {became or 'nothing was running'}. Continue with: {again}"


def _with_absolute_path(argument: str) -> str:
    """A path as it holds from every folder, for the multirun may be resumed from another one."""
    key, value = parts_of(argument)
    path = Path(value).expanduser()
    if value and key in PATH_KEYS and not key.startswith("hydra.") and path.exists():
        return f"{key}={path.absolute()}"
    return argument
