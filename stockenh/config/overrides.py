"""The command line's overrides: their values, paths quoted for Hydra's grammar, the nearest valid names.

Everything here is needed before torch is, so nothing here imports it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stockenh.config.catalog import (
    PATH_KEYS,
    default_keys,
    groups,
    groups_of,
    keys_of,
    keys_of_options,
    options_with_key,
    roots,
)
from stockenh.config.hints import as_data, instead
from stockenh.errors import ConfigError
from stockenh.storage.files import expanded

# A dotted key without the marks by which an override adds, deletes or renames it.
PLAIN_KEY = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*")
_MISSPELT = 0.8  # how much alike a key and a misspelt one of the same group are
_MISSPELT_GROUP = 0.6  # a name with an option of the group behind it
_SWEEP_FUNCTION = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\(")


def quote_paths(arguments: list[str], sweeping: bool = False) -> list[str]:
    """Quotes the values of path keys for Hydra's grammar, unless they are quoted already.

    A leading ~ is the home folder, which a shell does not see behind "=". With `sweeping`, commas separate
    choices unless the whole value is a path that exists.
    """
    return [_quote_path(argument, sweeping) for argument in arguments]


def literal(text: str) -> str:
    """Escapes `${`, which OmegaConf would take for an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def split_override(argument: str) -> tuple[str, str] | None:
    """`+data.path=x` -> ("data.path", "x"); None for a flag."""
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return None
    return key.lstrip("+~"), value


def config_folders(arguments: list[str]) -> list[Path]:
    """The folder that `--config-dir` or `-cd` adds, if there is one."""
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            if equals:
                return [Path(value)]
            return [Path(a) for a in arguments[at + 1 : at + 2]]
    return []


def _quote_path(argument: str, sweeping: bool) -> str:
    parts = split_override(argument)
    if parts is None or parts[0] not in PATH_KEYS:
        return argument
    key, value = parts
    if value in ("", "null") or _is_quoted(value):
        return argument
    prefix = argument[: len(argument) - len(value)]
    if sweeping and not os.path.exists(os.path.expanduser(value)):
        if _SWEEP_FUNCTION.match(value):
            return argument
        return prefix + ",".join(v if _is_quoted(v) else _quoted(key, v) for v in _choices(value))
    return prefix + _quoted(key, value)


def _choices(value: str) -> list[str]:
    """Splits at commas, but not within quotes or brackets."""
    return re.findall(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\[[^\]]*\]|[^,]+""", value)


def _is_quoted(value: str) -> bool:
    return re.fullmatch(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", value) is not None


def _quoted(key: str, path: str) -> str:
    path = os.path.expanduser(path)
    # Hydra's own folders may be named after the job, ${now:...}; elsewhere a dollar is a dollar
    return _in_quotes(path if key.startswith("hydra.") else literal(path))


def _in_quotes(text: str) -> str:
    # within quotes \' is a quote, and backslashes count only before one
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    escaped = re.sub(r"(\\+)\Z", r"\1\1", escaped)
    return f"'{escaped}'"


DEEPEST = 20  # lists and mappings within each other
LONGEST = 100_000  # characters of a value
_LARGEST = 2**63  # of whole numbers
_SHOWN = 80  # characters of a value in a message


def shortened(value: object) -> str:
    """A value as a message shows it."""
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a number of more than 19 digits"
    if isinstance(value, str):
        text = value[: _SHOWN + 1]
    elif _depth(value) > DEEPEST:
        return "lists within lists"
    else:
        text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _depth(value: object) -> int:
    """How deep containers lie within each other; counted without recursion, and no further than needed."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        inner: list[object] = []
        for one in level:
            if isinstance(one, Mapping):
                inner += one.values()
            elif isinstance(one, list | tuple):
                inner += one
        depth += bool(inner)
        if not inner:
            break
        level = inner
    return depth


def refuse_odd(values: Mapping[Any, Any], prefix: str = "") -> None:
    """Raises ConfigError where a value is of a size that no setting has: it may come from an untrusted file,
    and is refused before anything is made of it."""
    for key, value in values.items():
        name = f"{prefix}.{shortened(key)}".lstrip(".")
        if _depth(value) > DEEPEST:
            raise ConfigError(f"{name}: more than {DEEPEST} lists or mappings lie within each other")
        pending = [value]
        while pending:
            one = pending.pop()
            if isinstance(one, Mapping):
                pending += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple):
                pending += one
            elif isinstance(one, str) and len(one) > LONGEST:
                raise ConfigError(f"{name}: a text of {len(one):,} characters; at most {LONGEST:,} are read")
            elif isinstance(one, int) and abs(one) >= _LARGEST:
                raise ConfigError(f"{name}: a whole number of more than 19 digits is no setting")


def refuse_odd_text(argument: str) -> None:
    """The same of an override, before Hydra's grammar reads it."""
    key = shortened(argument.partition("=")[0])
    if len(argument) > LONGEST:
        raise ConfigError(f"{key}: {len(argument):,} characters; at most {LONGEST:,} are read")
    if re.search(r"(?<![\w./-])[+-]?\d(?:_?\d){18,}(?![\w./-])", argument):
        raise ConfigError(f"{key}: a whole number of more than 18 digits is no setting")
    depth = 0
    for character in re.sub(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", "", argument):
        depth += (character in "[{(") - (character in ")}]")
        if depth > DEEPEST:
            raise ConfigError(f"{key}: more than {DEEPEST} lists or mappings lie within each other")


def value_of(argument: str) -> Any:
    """The value of an override, read by Hydra's grammar. Raises ConfigError naming the argument."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    refuse_odd_text(argument)
    try:
        return OverridesParser.create().parse_override(_quote_path(argument, False)).value()
    except HydraException as error:
        raise ConfigError(f"{argument}: {str(error).splitlines()[0]}") from None


def unquoted(value: str) -> Path:
    """The path that an override's value names."""
    return Path(os.path.expanduser(value.strip("'\"")))


def split_paths(value: str) -> list[str]:
    """The paths that `[A,B]` names, or the one that stands alone."""
    if not (value.startswith("[") and value.endswith("]")) or expanded(value).exists():
        return [value]
    return [part.strip().strip("'\"") for part in value[1:-1].split(",") if part.strip()]


def join_paths(paths: Sequence[str]) -> str:
    """The inverse of `split_paths`."""
    return paths[0] if len(paths) == 1 else f"[{','.join(paths)}]"


def make_paths_absolute(raw: dict[str, Any]) -> None:
    """A run must find its data and the runs that it starts from, whatever folder it is resumed in."""
    for key in ("init_from", "teacher", "run"):
        if isinstance(raw.get(key), str):
            raw[key] = join_paths([str(expanded(path).absolute()) for path in split_paths(raw[key])])
    node = raw.get("data")
    if isinstance(node, dict) and isinstance(node.get("path"), str) and node["path"] != "???":
        node["path"] = str(expanded(node["path"]).absolute())
    extra = node.get("extra") if isinstance(node, dict) else None
    if isinstance(extra, dict) and isinstance(extra.get("path"), str):
        extra["path"] = str(expanded(extra["path"]).absolute())
    node = raw.get("embedding")
    if isinstance(node, dict):
        # what is no folder may be a Hub id, OWNER/NAME
        for key in {"checkpoint", "tokenizer"} & node.keys():
            path = expanded(str(node[key]))
            if path.is_dir() or str(node[key]).startswith((".", "~")):
                node[key] = str(path.absolute())


def hydra_text(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_][\w.+-]*", value):
        return _in_quotes(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(hydra_text(v) for v in value) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def nearest(word: str, options: Iterable[str]) -> list[str]:
    """Up to three of the options that a misspelt name is like, the most alike first."""
    return difflib.get_close_matches(word, list(dict.fromkeys(options)), n=3, cutoff=0.5)


def suggest(word: str, options: Iterable[str], all_options: bool = False) -> str:
    """`Nearest: a, b.` for a misspelt name, from the valid ones."""
    options = list(options)
    near = nearest(word, options)
    line = f"Nearest: {', '.join(near)}." if near else ""
    if all_options or not near:
        line = f"{line} Options: {', '.join(sorted(options))}.".strip()
    return line


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
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]*)'", text):
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
    if written := as_data(group, option):
        return f"{group}={option}: {written}"
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
    of_runs = set(groups_of("train")) - {"tracker"}  # which is no part of a run
    if "run" in {k.name for k in keys_of(root)} and group in of_runs:
        return f"{key} comes from run=RUN: {command} can't change it"
    if others := _commands_with(key, root):
        return f"{key} is not a key of {command}, but of {', '.join(others)}"
    chosen = {parts[0]: parts[1] for a in arguments if (parts := split_override(a)) and parts[0] in known}
    keys = _keys_with(root, chosen, folders)
    if rest and group in known and (elsewhere := options_with_key(group, rest, *folders)):
        line = f"{key} belongs to {' or '.join(elsewhere)}: add that to the command"
        own = [name for name in keys if name.startswith(f"{group}.")] if group in chosen else []
        like = nearest(key, own)
        return f"{line}. {group}={chosen[group]} has {', '.join(like)}" if like else line
    given = {parts[0]: parts[1] for a in arguments if (parts := split_override(a))}
    if not rest and (meant := _misspelt_group(group, given.get(key, ""), known, groups(*folders))):
        return f"{key}: no such key; write {meant}"
    inside = [name for name in keys if rest and name.startswith(f"{group}.")]
    if "." in rest and not any(name.startswith(key.rpartition(".")[0]) for name in inside):
        inside += keys_of_options(group, *folders)
    leaves = [name.removeprefix(f"{group}.") for name in inside]
    misspelt = difflib.get_close_matches(rest, leaves, 1, _MISSPELT)
    hint = None if misspelt else instead(key, given.get(key, "VALUE"), root, folders, alike=not inside)
    if hint is not None:
        return f"{key}: no such key; {hint}"
    near = suggest(key, inside or [*known, *keys, *(["resume"] if root in _RESUMED else [])])
    if near.startswith("Options") and not inside:
        near = suggest(key, {*known, *(name.split(".")[0] for name in keys)})
    return f"{key}: no such key. {near}"


def _misspelt_group(
    name: str, option: str, own: Iterable[str], known: Mapping[str, Sequence[str]]
) -> str | None:
    """`data=files` for `dat=file`; None where no group spelt like the name has an option like that."""
    for group in difflib.get_close_matches(name, list(own), 3, _MISSPELT_GROUP):
        if near := difflib.get_close_matches(option, known.get(group, ()), 1, _MISSPELT):
            return f"{group}={near[0]}"
    return None


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
