"""The command line's overrides: quoting paths, naming groups and options, completing what is half typed.

Everything here is needed before torch is, so nothing here imports it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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

# Words that a key takes in place of its number.
_WORDS = {"optimizer.lr": ("auto",)}

_SWEEP_FUNCTION = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\(")


def conf_dir() -> Path:
    """The folder of YAML groups: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
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


def options_with_key(group: str, key: str, *folders: Path) -> list[str]:
    """The options of a group whose YAML has this key: where a key that is nowhere else belongs."""
    return [f"{group}={file.stem}" for file in _options(group, *folders) if key in _with_parents(file)]


def keys_of_options(group: str, *folders: Path) -> list[str]:
    """The dotted keys that the options of a group have, `data.columns.close` among those of data."""
    keys = [f"{group}.{key}" for file in _options(group, *folders) for key in _flatten(_load(file))]
    return list(dict.fromkeys(keys))


def _options(group: str, *folders: Path) -> list[Path]:
    return [file for folder in (conf_dir(), *folders) for file in sorted((folder / group).glob("*.yaml"))]


def _with_parents(file: Path) -> set[str]:
    """The dotted keys of a YAML file, those of its mappings included."""
    parts = [key.split(".") for key in _flatten(_load(file))]
    return {".".join(key[: n + 1]) for key in parts for n in range(len(key))}


def complete(previous: list[str], word: str) -> list[str]:
    """What the half-typed `word` may become: groups, their options, and the keys of the default config.

    previous: the words before it. Bash splits at "=", so `loss=hu` arrives as three words and wants only
    the last of them back; other shells hand it over as one.
    """
    if word == "=" and previous:
        return _values(previous[-1])
    if len(previous) > 1 and previous[-1] == "=":
        return [value for value in _values(previous[-2]) if value.startswith(word)]
    key, equals, start = word.partition("=")
    if equals:
        return [f"{key}={value}" for value in _values(key) if value.startswith(start)]
    known = groups()
    inner = [name for name in default_keys() if "." in word or name.split(".")[0] not in known]
    found = [f"{name}=" for name in (*known, *inner) if name.startswith(word)]
    # a shell puts a space behind the only candidate: more of them keep the cursor at the "="
    return found + [found[0] + value for value in _values(found[0][:-1])] if len(found) == 1 else found


def default_keys() -> dict[str, Any]:
    """The dotted keys of the default config with their values: `seed`, `train.epochs`, `optimizer.lr`, ..."""
    top = _load(conf_dir() / "config.yaml")
    keys = _flatten({k: v for k, v in top.items() if k not in ("defaults", "hydra")})
    for entry in top["defaults"]:
        if isinstance(entry, dict):
            for group, option in entry.items():
                if option is not None:
                    keys |= _flatten(_load(conf_dir() / group / f"{option}.yaml"), f"{group}.")
    return keys


def _values(key: str) -> list[str]:
    """A group's options; for a key true and false, or its default where that is a number or a word, and the
    words that it takes besides."""
    if options := groups().get(key):
        return options
    value = default_keys().get(key)
    if isinstance(value, bool):
        return ["false", "true"]
    found = [str(value)] if isinstance(value, int | float | str) else []
    return [*found, *_WORDS.get(key, ())]


def _flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for key, value in node.items():
        if str(key).startswith("_") or key == "defaults":
            continue
        if isinstance(value, dict) and value:
            keys |= _flatten(value, f"{prefix}{key}.")
        else:
            keys[f"{prefix}{key}"] = value
    return keys


def _quote_path(argument: str, sweeping: bool) -> str:
    parts = split_override(argument)
    if parts is None or parts[0] not in PATH_KEYS:
        return argument
    key, value = parts
    if value in ("", "null") or _is_quoted(value):
        return argument
    prefix = argument[: len(argument) - len(value)]
    if sweeping and not Path(value).expanduser().exists():
        if _SWEEP_FUNCTION.match(value):
            return argument
        return prefix + ",".join(v if _is_quoted(v) else _quoted(key, v) for v in _choices(value))
    return prefix + _quoted(key, value)


def _choices(value: str) -> list[str]:
    """Splits at commas, but not within quotes."""
    return re.findall(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]+""", value)


def _is_quoted(value: str) -> bool:
    return re.fullmatch(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", value) is not None


def _quoted(key: str, path: str) -> str:
    # within quotes \' is a quote, and backslashes count only before one
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", os.path.expanduser(path))
    escaped = re.sub(r"(\\+)\Z", r"\1\1", escaped)
    # Hydra's own folders may be named after the job, ${now:...}; elsewhere a dollar is a dollar
    if not key.startswith("hydra."):
        escaped = literal(escaped)
    return f"'{escaped}'"


def _load(path: Path) -> dict[str, Any]:
    import yaml  # a twentieth of the time that --help may take

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def hydra_text(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_][\w.+-]*", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(hydra_text(v) for v in value) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def nearest(word: str, options: Iterable[str]) -> list[str]:
    """Up to three of the options that a misspelt name is like, the most alike first."""
    return difflib.get_close_matches(word, list(options), n=3, cutoff=0.5)


def suggest(word: str, options: Iterable[str], all_options: bool = False) -> str:
    """`Nearest: a, b.` for a misspelt name, from the valid ones."""
    options = list(options)
    near = nearest(word, options)
    line = f"Nearest: {', '.join(near)}." if near else ""
    if all_options or not near:
        line = f"{line} Options: {', '.join(sorted(options))}.".strip()
    return line
