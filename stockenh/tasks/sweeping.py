"""`stockenh sweep`: a multirun of train, or of distill, whose sweeper searches."""

from __future__ import annotations

import os
from pathlib import Path

from stockenh.compose import compose
from stockenh.errors import ConfigError
from stockenh.files import expanded
from stockenh.overrides import PATH_KEYS, quote_paths, split_override, suggest
from stockenh.sweep.folder import SweepFolder
from stockenh.tasks.distilling import distill
from stockenh.tasks.job import exit_with, value_of
from stockenh.tasks.training import INTERRUPTED, train

DEFAULT = "sweep=default"
# What may be other when a sweep goes on.
RESUME_KEYS = (
    "sweep.n_trials",
    "sweep.n_workers",
    "sweep.max_hours",
    "sweep.max_failures",
    "device",
    "threads",
)
MULTIRUN = ("--multirun", "-m")
SHOWS = ("--cfg", "-c", "--info", "-i", "--hydra-help")


def sweep(arguments: list[str]) -> None:
    """A new search, or with resume=DIR one that was stopped or is to have more trials."""
    given = [parts for a in arguments if (parts := split_override(a))]
    taken_up = next((key for key, value in given if key == "resume" and value != "null"), None)
    arguments = _taken_up(arguments) if taken_up else _begun(arguments)
    command = distill if any(key == "teacher" for key, _ in map(_parts, arguments)) else train
    try:
        command(arguments)
    except KeyboardInterrupt:
        exit_with(_stopped(arguments), INTERRUPTED)


def _begun(arguments: list[str]) -> list[str]:
    """The arguments with the default search where they name none, and the multirun that a search is."""
    plain = [a for a in arguments if split_override(a) and "," not in a and "(" not in a]
    names = {key for key, _ in map(_parts, arguments)}
    # a search may be part of an experiment
    more = [] if "sweep" in names or ("experiment" in names and _has_search(plain)) else [DEFAULT]
    shows = any(a.partition("=")[0] in SHOWS for a in arguments)  # the config, and runs nothing
    flag = [] if shows or set(MULTIRUN) & set(arguments) else ["--multirun"]
    return [*flag, *more, *absolute(arguments)]


def _has_search(arguments: list[str]) -> bool:
    ours = [a for a in arguments if _parts(a)[0] == "experiment"]
    return compose(ours).get("sweep") is not None


def require_harmless(kept: list[str], given: list[str], folder: Path) -> list[str]:
    """The overrides that a folder keeps of its command, which may be a stranger's: none may reach what Hydra
    itself is made of, and options of one's own (--config-dir) are named again by who trusts them."""
    for argument in kept:
        key, value = _parts(argument)
        if argument.startswith("--config-dir="):
            if argument.partition("=")[2] not in " ".join(given):
                raise ConfigError(
                    f"{folder} was made with options of its own: add {argument} if you trust it"
                )
        elif argument.startswith("-") or (key.startswith("hydra") and not _is_harmless(key, value)):
            raise ConfigError(f"{folder} keeps {argument}, which a folder must not say: it is not followed")
    return [a for a in kept if not a.startswith("--config-dir=")]


def _is_harmless(key: str, value: str) -> bool:
    if key in ("hydra/launcher", "hydra/sweeper"):
        return value.replace("_", "").isalnum()
    said = key.startswith("hydra.launcher.") and "_target_" not in key + value
    return said or key in ("hydra.sweep.dir", "hydra.run.dir", "hydra.mode")


def _taken_up(arguments: list[str]) -> list[str]:
    """The command that a sweep's folder was made by, with what may be other now."""
    changed: list[str] = []
    flags: list[str] = []
    folder: SweepFolder | None = None
    for argument, quoted in zip(arguments, quote_paths(arguments), strict=True):
        key, _ = _parts(argument)
        if key == "resume":
            folder = SweepFolder(expanded(str(value_of(argument, quoted))).absolute())
        elif key in RESUME_KEYS:
            changed.append(argument)
        elif argument.startswith("--config-dir="):
            flags.append(argument)
        elif argument not in MULTIRUN:
            raise ConfigError(
                f"{key or argument} can't be given with resume: a sweep goes on as it began; only "
                f"{', '.join(RESUME_KEYS)} may change. {suggest(key or argument, RESUME_KEYS)}"
            )
    assert folder is not None
    began = require_harmless(folder.read()["arguments"], flags, folder.path)
    replaced = {key for key, _ in map(_parts, changed)}
    kept = [a for a in began if _parts(a)[0] not in replaced]
    return ["--multirun", *flags, *kept, *changed, f"hydra.sweep.dir={folder.path}"]


def absolute(arguments: list[str]) -> list[str]:
    """Paths as they hold from every folder, for the search may be resumed from another one."""
    found = []
    for argument in arguments:
        key, value = _parts(argument)
        path = Path(os.path.expanduser(value)) if value else None
        local = key in PATH_KEYS and not key.startswith("hydra.") and path is not None and path.exists()
        found.append(f"{key}={path.absolute()}" if local and path is not None else argument)
    return found


def _stopped(arguments: list[str]) -> str:
    where = [value for key, value in map(_parts, arguments) if key == "hydra.sweep.dir"]
    folder = SweepFolder(Path(where[-1].strip("'\"")).expanduser().absolute()) if where else None
    again = folder.resume_command() if folder else "stockenh sweep resume=DIR, the folder named above"
    return f"stopped; running trials saved where they are. Continue with: {again}"


def _parts(argument: str) -> tuple[str, str]:
    return split_override(argument) or ("", "")
