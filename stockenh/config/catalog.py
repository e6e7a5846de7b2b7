"""What the YAML files of conf/ offer: root configs, groups, options and keys with their comments.

The options of plugins are among them once they are loaded. Needed for help and completion, before Hydra and
torch, so nothing here imports them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockenh.config import registry

COMMON = "common"  # the folder of what root configs share; not a group
# Keys whose value is a path, which Hydra's grammar would want quoted wherever it holds more than letters.
PATH_KEYS = (
    "data.path",
    "resume",
    "run",
    "teacher",
    "init_from",
    "run_config",
    "ledger",
    "cache_dir",
    "embedding.checkpoint",
    "embedding.tokenizer",
    "tracker.dir",
    "tracker.uri",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
# Words that a key takes in place of its number.
_WORDS = {"optimizer.lr": ("auto",)}
_LINE = re.compile(r"( *)(\w+):[ \t]*([^#]*?)[ \t]*(?:#[ \t]*(.*))?")


@dataclass(frozen=True)
class Key:
    """A key as a YAML file declares it: its dotted name, its default as written there, its comment."""

    name: str
    default: str
    comment: str


@dataclass(frozen=True)
class OptionFile:
    """The YAML of an option of a group: a file of a folder, or what a plugin has in memory."""

    group: str
    name: str
    text: str
    folder: Path | None = None  # with all groups

    @classmethod
    def read(cls, file: Path) -> OptionFile:
        """An option of conf/ or of a folder like it."""
        return cls(file.parent.name, file.stem, file.read_text(encoding="utf-8"), file.parents[1])


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
    """Config groups and their options, by name: shipped ones, those of plugins and of any folders given."""
    found: dict[str, set[str]] = {}
    for group, name in registry.OPTIONS:
        found.setdefault(group, set()).add(name)
    for folder in (conf_dir(), *folders):
        for file in folder.glob("*/*.yaml"):
            if file.parent.name != COMMON:
                found.setdefault(file.parent.name, set()).add(file.stem)
    return {name: sorted(found[name]) for name in sorted(found)}


def groups_of(root: str) -> dict[str, str | None]:
    """The groups of a root config and the option that each has by default."""
    found: dict[str, str | None] = {}
    for file in _files(root):
        for entry in _load(_text(file)).get("defaults", ()):
            if isinstance(entry, dict):
                found |= {str(group).lstrip("/"): option for group, option in entry.items()}
    return found


def keys_of(root: str) -> list[Key]:
    """The keys of a root config that are not a group's."""
    found = {key.name: key for file in _files(root) for key in _keys(_text(file))}
    return list(found.values())


def default_keys(root: str) -> list[Key]:
    """All keys of a root config, those of its groups' default options included."""
    found = {key.name: key for key in keys_of(root)}
    for group, option in groups_of(root).items():
        if option is not None:
            own = [key for file in _options(group, option=option) for key in option_keys(file, f"{group}.")]
            found = {key.name: key for key in own} | found
    return list(found.values())


def plugin_keys(root: str) -> list[Key]:
    """The keys of the options that plugins bring, each with its option: `model.width (model=mine)`."""
    known = groups_of(root)
    return [
        Key(key.name, key.default, f"{key.comment} ({group}={name})".strip())
        for group, name in registry.OPTIONS
        if group in known
        for file in _options(group, option=name)
        for key in option_keys(file, f"{group}.")
    ]


def options_with_key(group: str, key: str, *folders: Path) -> list[str]:
    """The options of a group whose YAML has this key: where a key that is nowhere else belongs."""
    found = []
    for file in _options(group, *folders):
        names = [name for k in option_keys(file) for name in _with_parents(k.name)]
        if key in names:
            found.append(f"{group}={file.name}")
    return found


def keys_of_options(group: str, *folders: Path, option: str = "*") -> list[str]:
    """The dotted keys that the options of a group have, or one of them: `data.columns.close` for data."""
    files = _options(group, *folders, option=option)
    return list(dict.fromkeys(key.name for file in files for key in option_keys(file, f"{group}.")))


def option_keys(file: OptionFile, prefix: str = "") -> list[Key]:
    """The keys of an option, those of the options that it extends included.

    A key without a comment of its own has the comment of the extended option.
    """
    found = {key.name: key for base in _extended(file) for key in option_keys(base, prefix)}
    for key in _keys(file.text, prefix):
        inherited = found[key.name].comment if key.name in found else ""
        found[key.name] = Key(key.name, key.default, key.comment or inherited)
    return list(found.values())


def option_values(group: str, option: str) -> dict[str, Any]:
    """The settings of a shipped option or a plugin's, those of the options that it extends included."""
    (file,) = _options(group, option=option)
    values = {k: v for base in _extended(file) for k, v in option_values(group, base.name).items()}
    return values | {key: value for key, value in _load(file.text).items() if key != "defaults"}


def complete(root: str, previous: list[str], word: str) -> list[str]:
    """What the half-typed `word` may become: groups, their options, and the keys of a root config.

    previous: the words before it. Bash splits at "=", so `loss=hu` arrives as three words and wants only
    the last of them back; other shells pass it as one.
    """
    if previous and registry.FLAG in (previous[-1], "".join(previous[-2:]).removesuffix("=")):
        return []  # a file, which the shell completes
    keys = _keys_with(root, previous)
    if word == "=" and previous:
        return _values(root, previous[-1], keys)
    if len(previous) > 1 and previous[-1] == "=":
        return [value for value in _values(root, previous[-2], keys) if value.startswith(word)]
    key, equals, start = word.partition("=")
    if equals:
        return [f"{key}={value}" for value in _values(root, key, keys) if value.startswith(start)]
    known = groups_of(root)
    inner = [key.name for key in keys if "." in word or key.name.split(".")[0] not in known]
    found = [f"{name}=" for name in (*known, *inner) if name.startswith(word)]
    # a shell puts a space behind the only candidate: more of them keep the cursor at the "="
    one = [found[0] + value for value in _values(root, found[0][:-1], keys)] if len(found) == 1 else []
    return found + one


def _keys_with(root: str, words: list[str]) -> list[Key]:
    """The keys of a root config, with those of the options that the words choose."""
    known, line = groups(), " ".join(words).replace(" = ", "=")
    chosen = {
        group: option
        for group, _, option in (word.partition("=") for word in line.split(" "))
        if group in groups_of(root) and option in known.get(group, ())
    }
    own = [
        key
        for group, option in chosen.items()
        for file in _options(group, option=option)
        for key in option_keys(file, f"{group}.")
    ]
    return [key for key in default_keys(root) if key.name.partition(".")[0] not in chosen] + own


def _values(root: str, key: str, keys: Iterable[Key]) -> list[str]:
    """A group's options; of a key true and false, or its default where that is a number or a word, and the
    words that it takes besides."""
    if key in groups_of(root):
        return groups().get(key, [])
    default = next((k.default for k in keys if k.name == key), "null")
    if default in ("true", "false"):
        return ["false", "true"]
    found = [default] if default not in ("null", "???", "") and default[0] not in "[{" else []
    return [*found, *_WORDS.get(key, ())]


def _files(root: str) -> Iterator[Path]:
    """The YAML file of a root config after all files of conf/common that it includes."""
    file = conf_dir() / f"{root}.yaml"
    for entry in _load(_text(file)).get("defaults", ()):
        if isinstance(entry, str) and entry != "_self_":
            yield from _files(entry if "/" in entry else f"{COMMON}/{entry}")
    yield file


def _options(group: str, *folders: Path, option: str = "*") -> list[OptionFile]:
    found = [f for folder in (conf_dir(), *folders) for f in sorted((folder / group).glob(f"{option}.yaml"))]
    own = [o for (of, name), o in registry.OPTIONS.items() if of == group and option in ("*", name)]
    return [*map(OptionFile.read, found), *(OptionFile(o.group, o.name, o.text) for o in own)]


def _extended(file: OptionFile) -> Iterator[OptionFile]:
    """The options of the same group that an option's YAML extends: `defaults: [none, _self_]`."""
    for entry in _load(file.text).get("defaults") or ():
        if isinstance(entry, str) and entry != file.name:
            near = [file.folder] if file.folder is not None and file.folder != conf_dir() else []
            yield from _options(file.group, *near, option=entry)[:1]


def _keys(text: str, prefix: str = "") -> Iterator[Key]:
    """The keys of a YAML file in the style of conf/: a key per line, nested by indentation, then its comment.

    A key with keys below it is not listed itself; Hydra's own node and the defaults list are left out.
    """
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


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _load(text: str) -> dict[str, Any]:
    import yaml  # a twentieth of the time that --help may take

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # in a folder of the user's; composing names the line
        return {}
    return content if isinstance(content, dict) else {}
