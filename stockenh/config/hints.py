"""One or two lines for a config that can't be composed: the override at fault and the nearest valid names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from stockenh.config.catalog import (
    default_keys,
    groups,
    groups_of,
    keys_of,
    keys_of_options,
    options_with_key,
    roots,
)
from stockenh.config.overrides import config_folders, nearest, split_override, suggest

# What other programs call the folder of a run.
_RUN_DIR = re.compile(
    r"(run|out|output|save|log|work|exp)[._]?(dir|folder|path)|out|output|outputs|dir|folder"
)
# Root configs of commands that take resume=DIR, which is no key of a config.
_RESUMED = ("train", "distill", "sweep", "sweep_student", "ablate")
# Keys of other commands that have a counterpart.
_INSTEAD = {
    ("train", "run"): "to start with a run's weights write init_from=RUN, to continue it resume=RUN",
    ("train", "teacher"): "a student is trained by stockenh distill teacher=RUN",
    ("train", "sweep"): "a search is stockenh sweep",
    ("train", "ablate"): "a comparison of techniques is stockenh ablate",
}


def explain_error(error: Exception, root: str, arguments: Sequence[str]) -> str:
    """The message for what Hydra or OmegaConf raised while they composed a root config."""
    text = str(error)
    root = root.removesuffix("_of_run")
    folders = config_folders(list(arguments))
    if found := re.search(r"Could not find '([^']+)/([^'/]*)'", text):
        group, option = found.groups()
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE) or groups(*folders).get(group, [])
        return wrong_option(group, option, options)
    if found := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        return unknown_key(found[1] or found[2], root, arguments)
    if found := re.search(r"Multiple values for (\w+)|^(\w+) appears more than once", text):
        group = found[1] or found[2]
        return f"{group} has a value already: write {group}=... without a + before it"
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: not readable YAML: {error.problem}"
    lines = [line.strip().rstrip(".:") for line in text.splitlines() if line.strip()]
    cause = [str(error.__cause__).splitlines()[0]] if error.__cause__ else []
    return ". ".join(dict.fromkeys([*lines[:2], *cause]))


def wrong_option(group: str, option: str, options: Iterable[str]) -> str:
    """The message for an option that a group does not have."""
    return f"{group}={option}: no such {group}. {suggest(option, options, all_options=True)}"


def unknown_key(key: str, root: str, arguments: Sequence[str]) -> str:
    """The message for a key that a root config does not have."""
    group, _, rest = key.partition(".")
    folders = config_folders(list(arguments))
    if _RUN_DIR.fullmatch(key):
        return f"{key}: no such key. The folder of a run is hydra.run.dir=DIR"
    if group == "hydra":
        return f"{key}: Hydra has no such key. See: stockenh train --cfg hydra"
    command = f"stockenh {root.replace('_', '-')}"
    if (root, group) in _INSTEAD:
        return f"{key} is not a key of {command}: {_INSTEAD[root, group]}"
    known = groups_of(root)
    if "run" in {k.name for k in keys_of(root)} and group in groups_of("train"):
        return f"{key} comes from run=RUN: {command} can't change it"
    if others := _commands_with(key, root):
        return f"{key} is not a key of {command}, but of {', '.join(others)}"
    chosen = {parts[0]: parts[1] for a in arguments if (parts := split_override(a)) and parts[0] in known}
    keys = _keys_with(root, chosen, folders)
    if rest and (elsewhere := options_with_key(group, rest, *folders)):
        line = f"{key} belongs to {' or '.join(elsewhere)}: add that to the command"
        own = [name for name in keys if name.startswith(f"{group}.")] if group in chosen else []
        like = nearest(key, own)
        return f"{line}. {group}={chosen[group]} has {', '.join(like)}" if like else line
    inside = [name for name in keys if rest and name.startswith(f"{group}.")]
    if "." in rest and not any(name.startswith(key.rpartition(".")[0]) for name in inside):
        inside += keys_of_options(group, *folders)
    near = suggest(key, inside or [*known, *keys, *(["resume"] if root in _RESUMED else [])])
    if near.startswith("Options") and not inside:
        near = suggest(key, {*known, *(name.split(".")[0] for name in keys)})
    return f"{key}: no such key. {near}"


def _commands_with(key: str, root: str) -> list[str]:
    """The other commands that have this very key or group."""
    if any(key in (k.name, k.name.split(".")[0]) for k in keys_of(root)) or key in groups_of(root):
        return []
    found = []
    for other in roots():
        names = {part for k in keys_of(other) for part in (k.name, k.name.split(".")[0])}
        if other != root and other != "sweep_student" and key in {*names, *groups_of(other)}:
            found.append(f"stockenh {other.replace('_', '-').replace('data-check', 'data check')}")
    return found


def _keys_with(root: str, chosen: dict[str, str], folders: Sequence[Path]) -> list[str]:
    """The dotted keys of a root config with these options of some groups."""
    keys = [key.name for key in default_keys(root) if key.name.partition(".")[0] not in chosen]
    for group, option in chosen.items():
        keys += [key for key in keys_of_options(group, *folders, option=option)]
    return keys
