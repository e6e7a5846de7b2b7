"""What the YAML files of conf/ offer: root configs, groups, options and keys with their comments.

Needed for help and completion, before Hydra and torch, so nothing here imports them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMON = "common"  # the folder of what root configs share; not a group
# Words that a key takes in place of its number.
_WORDS = {"optimizer.lr": ("auto",)}
_LINE = re.compile(r"( *)(\w+):[ \t]*([^#]*?)[ \t]*(?:#[ \t]*(.*))?")


@dataclass(frozen=True)
class Key:
    """A key as a YAML file declares it: its dotted name, its default as written there, its comment."""

    name: str
    default: str
    comment: str


def conf_dir() -> Path:
    """The folder of YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def root_of(command: str) -> str:
    """The root config of a command: `tta-predict` has conf/tta_predict.yaml."""
    return command.replace("-", "_").replace(" ", "_")


def roots() -> list[str]:
    """The names of all root configs."""
    return sorted(file.stem for file in conf_dir().glob("*.yaml"))


def groups(*folders: Path) -> dict[str, list[str]]:
    """Config groups and their options, by name, from the shipped folder and any others given."""
    found: dict[str, set[str]] = {}
    for folder in (conf_dir(), *folders):
        for file in folder.glob("*/*.yaml"):
            if file.parent.name != COMMON:
                found.setdefault(file.parent.name, set()).add(file.stem)
    return {name: sorted(found[name]) for name in sorted(found)}


def groups_of(root: str) -> dict[str, str | None]:
    """The groups of a root config and the option that each has by default."""
    found: dict[str, str | None] = {}
    for file in _files(root):
        for entry in _load(file).get("defaults", ()):
            if isinstance(entry, dict):
                found |= {str(group).lstrip("/"): option for group, option in entry.items()}
    return found


def keys_of(root: str) -> list[Key]:
    """The keys of a root config that are not a group's."""
    found = {key.name: key for file in _files(root) for key in _keys(file)}
    return list(found.values())


def default_keys(root: str) -> list[Key]:
    """All keys of a root config, those of its groups' default options included."""
    found = {key.name: key for key in keys_of(root)}
    for group, option in groups_of(root).items():
        if option is not None:
            own = option_keys(conf_dir() / group / f"{option}.yaml", f"{group}.")
            found = {key.name: key for key in own} | found
    return list(found.values())


def options_with_key(group: str, key: str, *folders: Path) -> list[str]:
    """The options of a group whose YAML has this key: where a key that is nowhere else belongs."""
    found = []
    for file in _options(group, *folders):
        names = [name for k in option_keys(file) for name in _with_parents(k.name)]
        if key in names:
            found.append(f"{group}={file.stem}")
    return found


def keys_of_options(group: str, *folders: Path, option: str = "*") -> list[str]:
    """The dotted keys that the options of a group have, or one of them: `data.columns.close` for data."""
    files = _options(group, *folders, option=option)
    return list(dict.fromkeys(key.name for file in files for key in option_keys(file, f"{group}.")))


def option_keys(file: Path, prefix: str = "") -> list[Key]:
    """The keys of an option's YAML file, those of the options that it extends included.

    A key without a comment of its own has the comment of the extended option.
    """
    found = {key.name: key for base in _extended(file) for key in option_keys(base, prefix)}
    for key in _keys(file, prefix):
        inherited = found[key.name].comment if key.name in found else ""
        found[key.name] = Key(key.name, key.default, key.comment or inherited)
    return list(found.values())


def option_values(group: str, option: str) -> dict[str, Any]:
    """The settings of a shipped option, those of the options that it extends included."""
    file = conf_dir() / group / f"{option}.yaml"
    values = {k: v for base in _extended(file) for k, v in option_values(group, base.stem).items()}
    return values | {key: value for key, value in _load(file).items() if key != "defaults"}


def complete(root: str, previous: list[str], word: str) -> list[str]:
    """What the half-typed `word` may become: groups, their options, and the keys of a root config.

    previous: the words before it. Bash splits at "=", so `loss=hu` arrives as three words and wants only
    the last of them back; other shells pass it as one.
    """
    if word == "=" and previous:
        return _values(root, previous[-1])
    if len(previous) > 1 and previous[-1] == "=":
        return [value for value in _values(root, previous[-2]) if value.startswith(word)]
    key, equals, start = word.partition("=")
    if equals:
        return [f"{key}={value}" for value in _values(root, key) if value.startswith(start)]
    known = groups_of(root)
    names = [key.name for key in default_keys(root)]
    inner = [name for name in names if "." in word or name.split(".")[0] not in known]
    found = [f"{name}=" for name in (*known, *inner) if name.startswith(word)]
    # a shell puts a space behind the only candidate: more of them keep the cursor at the "="
    return found + [found[0] + value for value in _values(root, found[0][:-1])] if len(found) == 1 else found


def _values(root: str, key: str) -> list[str]:
    """A group's options; of a key true and false, or its default where that is a number or a word, and the
    words that it takes besides."""
    if key in groups_of(root):
        return groups().get(key, [])
    default = next((k.default for k in default_keys(root) if k.name == key), "null")
    if default in ("true", "false"):
        return ["false", "true"]
    found = [default] if default not in ("null", "???", "") and default[0] not in "[{" else []
    return [*found, *_WORDS.get(key, ())]


def _files(root: str) -> Iterator[Path]:
    """The YAML file of a root config after all files of conf/common that it includes."""
    file = conf_dir() / f"{root}.yaml"
    for entry in _load(file).get("defaults", ()):
        if isinstance(entry, str) and entry != "_self_":
            yield from _files(entry if "/" in entry else f"{COMMON}/{entry}")
    yield file


def _options(group: str, *folders: Path, option: str = "*") -> list[Path]:
    return [f for folder in (conf_dir(), *folders) for f in sorted((folder / group).glob(f"{option}.yaml"))]


def _extended(file: Path) -> Iterator[Path]:
    """The options of the same group that an option's YAML extends: `defaults: [none, _self_]`."""
    for entry in _load(file).get("defaults") or ():
        if isinstance(entry, str) and entry != file.stem:
            bases = (folder / f"{entry}.yaml" for folder in (file.parent, conf_dir() / file.parent.name))
            yield from [base for base in bases if base.is_file()][:1]


def _keys(file: Path, prefix: str = "") -> Iterator[Key]:
    """The keys of a YAML file in the style of conf/: a key per line, nested by indentation, then its comment.

    A key with keys below it is not listed itself; Hydra's own node and the defaults list are left out.
    """
    text = file.read_text(encoding="utf-8")
    if text.startswith("# @package _global_"):
        prefix = ""
    lines = text.splitlines()
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    parents: list[tuple[int, str]] = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        indent, name = len(match[1]), match[2]
        parents = [(depth, parent) for depth, parent in parents if depth < indent]
        top = parents[0][1] if parents else name
        if following is not None and len(following[1]) > indent and not match[3]:
            parents.append((indent, name))
        elif top not in ("defaults", "hydra") and not name.startswith("_"):
            path = ".".join([*(parent for _, parent in parents), name])
            yield Key(prefix + path, match[3], match[4] or "")


def _with_parents(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[: n + 1]) for n in range(len(parts)))


def _load(path: Path) -> dict[str, Any]:
    import yaml  # a twentieth of the time that --help may take

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:  # in a folder of the user's; composing names the line
        return {}
    return content if isinstance(content, dict) else {}
