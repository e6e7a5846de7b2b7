"""What the commands that work on a finished run share: its config under theirs, and its trained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockenh.commands.job import finished_run, refuse_old_folder
from stockenh.config import compose
from stockenh.config.overrides import split_override
from stockenh.config.schema import config_of
from stockenh.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from stockenh.commands.trained import Trained


def based_on_run(
    arguments: list[str],
    leaves: str | None = None,
    into: Callable[[RunFolder], list[str]] = lambda folder: [],
) -> list[str]:
    """The arguments with the config of run=RUN under them.

    leaves: see `refuse_old_folder`; into: the overrides that say where to, if the arguments name no folder.
    Raises ConfigError where run= is missing, RunFolderError where it is no finished run.
    """
    given = dict(parts for a in arguments if (parts := split_override(a)))
    refuse_old_folder(list(given.items()), leaves)
    folder = finished_run(arguments)
    where = [] if "hydra.run.dir" in given else into(folder)
    return compose.based_on(config_of(folder).raw, [*where, *arguments])


def trained(raw: dict[str, Any]) -> Trained:
    """The run that a composed config names, with the weights that it asks for. Raises RunFolderError."""
    from stockenh.commands.trained import Trained

    return Trained.open(RunFolder.open(Path(raw["run"])), raw["weights"])
