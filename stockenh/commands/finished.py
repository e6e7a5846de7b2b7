"""What the commands on a finished run share: its folder, its config under theirs, and where they write."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stockenh.config import compose
from stockenh.config.overrides import split_override, value_of
from stockenh.config.schema import Kind, RunConfig, config_of, parse, to_dict
from stockenh.errors import ConfigError
from stockenh.storage.files import expanded
from stockenh.storage.run_folder import RunFolder

_NEAR = 0.6  # how much alike a key and a misspelt one are


def run_on_finished(
    root: str,
    body: compose.Body,
    arguments: list[str],
    directory: Callable[[RunFolder], Path] | None = None,
    more: tuple[str, ...] = (),
) -> None:
    """Composes a root config over the config of run=RUN and calls `body`; see `compose.run`.

    directory: where the command writes, with the overrides in `more`, unless hydra.run.dir is given.
    Raises ConfigError where run= is missing, RunFolderError where it is no finished run.
    """
    run = finished_run(arguments)
    name = compose.with_run(root, to_dict(config_of(run)), arguments)
    given = {parts[0] for a in arguments if (parts := split_override(a))}
    if directory is not None and "hydra.run.dir" not in given:
        arguments = [f"hydra.run.dir={directory(run)}", *more, *arguments]
    compose.run(name, body, arguments)


def config_for(raw: dict[str, Any], run: RunConfig, kind: type[Kind]) -> Kind:
    """The config of a command on a finished run: the run's own but for what the command's config has."""
    own = {key: value for key, value in raw.items() if key != "run"}
    return parse({**to_dict(run), "teacher": None, "init_from": None, **own}, kind)


def require_own_folder(folder: RunFolder, what: str) -> None:
    """Raises ConfigError where the folder to write into holds a run. what: `the export`."""
    if folder.config.is_file():
        raise ConfigError(
            f"hydra.run.dir={folder} holds a run: {what} takes a folder of its own; name another, or leave "
            f"hydra.run.dir out"
        )


def finished_run(arguments: list[str], name: str = "run") -> RunFolder:
    """The folder of run=RUN, or what else the override is called; it must hold a whole run."""
    for argument in arguments:
        if (split_override(argument) or ("",))[0] == name:
            folder = RunFolder.open(expanded(str(value_of(argument))))
            folder.require_finished()
            return folder
    raise ConfigError(_missing(name, [parts[0] for a in arguments if (parts := split_override(a))]))


def _missing(name: str, given: list[str]) -> str:
    """The message where the run is not named: the key that was perhaps meant for it."""
    other = {"run": "teacher", "teacher": "run"}[name]
    if other in given:
        return f"{other}= names no run for this command: write {name}=RUN"
    if near := difflib.get_close_matches(name, given, n=1, cutoff=_NEAR):
        return f"{near[0]}: no such key. Nearest: {name}"
    if near := difflib.get_close_matches("resume", given, n=1, cutoff=_NEAR):
        return f"{near[0]}: no such key. Nearest: resume"
    return f"{name}= must be given: {name}=RUN, a folder that stockenh train left in outputs/"
