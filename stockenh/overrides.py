"""The command line's overrides: quoting paths, naming groups and options, completing what is half typed.

Everything here is needed before torch is, so nothing here imports it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

# Keys whose value is a path, which Hydra's grammar would want quoted wherever it holds more than letters.
PATH_KEYS = (
    "data.path",
    "resume",
    "run",
    "teacher",
    "init_from",
    "cache_dir",
    "embedding.checkpoint",
    "embedding.tokenizer",
    "hydra.run.dir",
    "hydra.sweep.dir",
)

_PLAIN = re.compile(r"[\w/.~@+-]+\Z")


def conf_dir() -> Path:
    """The folder of YAML groups: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def groups(*folders: Path) -> dict[str, list[str]]:
    """Config groups and their options, by name, from the shipped folder and any others given."""
    found: dict[str, set[str]] = {}
    for folder in (conf_dir(), *folders):
        for file in folder.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {name: sorted(found[name]) for name in sorted(found)}


def quote_paths(arguments: list[str], sweeping: bool = False) -> list[str]:
    """Quotes the values of path keys for Hydra's grammar, unless they are quoted already.

    With `sweeping`, a comma separates choices unless the whole value is a path that exists.
    """
    return [_quote_path(argument, sweeping) for argument in arguments]


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


def options_with_key(group: str, key: str) -> list[str]:
    """The options of a group whose YAML has this key: where a key that is nowhere else belongs."""
    return [
        f"{group}={option}"
        for option in groups().get(group, [])
        if key.split(".")[0] in _load(conf_dir() / group / f"{option}.yaml")
    ]


def complete(args: list[str], incomplete: str) -> list[str]:
    """What may follow on the command line: groups, their options, and the keys of the default config.

    Bash splits a word at "=", so `loss=hu` may arrive as one word or as three.
    """
    known = groups()
    if args and args[-1] == "=" and len(args) > 1:
        return [option for option in known.get(args[-2], []) if option.startswith(incomplete)]
    if incomplete == "=" and args:
        return known.get(args[-1], [])
    group, equals, start = incomplete.partition("=")
    if equals:
        return [f"{group}={option}" for option in known.get(group, []) if option.startswith(start)]
    candidates = [f"{name}=" for name in known] + [f"{key}=" for key in default_keys()]
    return [candidate for candidate in candidates if candidate.startswith(incomplete)]


def default_keys() -> list[str]:
    """The dotted keys of the default config: `seed`, `train.epochs`, `optimizer.lr`, ..."""
    top = _load(conf_dir() / "config.yaml")
    keys = list(_flatten({k: v for k, v in top.items() if k not in ("defaults", "hydra")}))
    for entry in top["defaults"]:
        if isinstance(entry, dict):
            for group, option in entry.items():
                if option is not None:
                    content = _load(conf_dir() / group / f"{option}.yaml")
                    keys += [f"{group}.{key}" for key in _flatten(content)]
    return keys


def _flatten(node: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        if str(key).startswith("_") or key == "defaults":
            continue
        if isinstance(value, dict) and value:
            keys += _flatten(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def _quote_path(argument: str, sweeping: bool) -> str:
    parts = split_override(argument)
    if parts is None or parts[0] not in PATH_KEYS:
        return argument
    value = parts[1]
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    choices = sweeping and "," in value and not Path(value).expanduser().exists()
    if quoted or choices or value in ("", "null") or _PLAIN.match(value):
        return argument
    # Hydra unescapes \' and a backslash run before a quote; OmegaConf would follow ${...}
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)\Z", r"\1\1", escaped).replace("${", "\\${")
    return f"{argument[: len(argument) - len(value)]}'{escaped}'"


def _load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
