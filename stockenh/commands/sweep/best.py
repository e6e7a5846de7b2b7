"""The best trial as an option of the config, and the command that trains it again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from stockenh.commands.sweep.folder import SweepFolder
from stockenh.config.catalog import groups
from stockenh.storage.files import write_atomic

# Overrides that a run of its own does not have.
OF_SWEEPS = ("sweep", "ablate", "hydra")
# The values of the config that the command line of one training run needs no word of.
LEFT_OUT = (
    "device",
    "threads",
    "cache_dir",
    "init_from",
    "teacher",
    "weights",
    "resume",
    "run",
    "experiment",
)
# The groups of a distilled student that come from its teacher's run.
OF_TEACHER = "of_run"


def write_best(
    folder: SweepFolder,
    raw: Mapping[str, Any],
    choices: Mapping[str, str],
    plainly: Callable[[list[str]], dict[str, Any]],
    head: Sequence[str],
) -> None:
    """Writes the config of a trial as best.yaml: its options, and every value that these alone don't give.

    raw: the trial's config; choices: the option of each group; plainly: the config that some overrides and
    nothing else give. An option that is not shipped is written
    beside it, so that the folder holds all that --config-dir needs.
    """
    shipped = groups()
    ours = {
        group: option
        for group, option in choices.items()
        if group in shipped and group not in ("experiment", *OF_SWEEPS) and option != OF_TEACHER
    }
    for group, option in ours.items():
        if option not in shipped[group]:
            text = yaml.safe_dump(raw[group], sort_keys=False, allow_unicode=True)
            write_atomic(folder.path / group / f"{option}.yaml", text.encode())
    base = plainly([f"{group}={option}" for group, option in ours.items() if option in shipped[group]])
    skipped = {group for group, option in choices.items() if option == OF_TEACHER}
    values = {
        key: value
        for key, value in raw.items()
        if key not in LEFT_OUT and key not in skipped and key not in OF_SWEEPS
    }
    node = _difference(values, base)
    lines = [f"# {line}" for line in head]
    defaults = yaml.safe_dump([{f"override /{g}": o} for g, o in ours.items()], default_flow_style=False)
    body = yaml.safe_dump(node, sort_keys=False, allow_unicode=True) if node else ""
    text = "\n".join(["# @package _global_", *lines, "defaults:", *_indented(defaults), "", body])
    for path in (folder.best, folder.best_option):
        write_atomic(path, (text.rstrip() + "\n").encode())


def short_command(folder: SweepFolder, command: str, teacher: str | None) -> str:
    """The command that trains best.yaml."""
    words = ["stockenh", command, *([f"teacher={teacher}"] if teacher else [])]
    return shlex.join([*words, "--config-dir", str(folder.path), "experiment=best"])


def full_command(command: str, arguments: Sequence[str], overrides: Sequence[str], epochs: int) -> str:
    """The same without the sweep's folder: its own overrides and those of the trial."""
    own = [a for a in arguments if a.lstrip("+~").partition("=")[0].partition(".")[0] not in OF_SWEEPS]
    own = [a for a in own if a.partition("/")[0] not in OF_SWEEPS]
    if not any(a.startswith("train.epochs=") for a in [*own, *overrides]):
        own.append(f"train.epochs={epochs}")
    return shlex.join(["stockenh", command, *own, *overrides])


def _difference(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What of nested values is not so in the base."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "_target_":
            continue
        known = base.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            if inner := _difference(value, known):
                found[key] = inner
        elif key not in base or value != known:
            found[key] = value
    return found


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
