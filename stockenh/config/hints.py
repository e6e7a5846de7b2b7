"""What to write instead of words as other programs take them: `--epochs 5`, `lr=1e-3`, a bare path or option.

Needed before Hydra and torch, so nothing here imports them.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from stockenh.config.catalog import (
    PATH_KEYS,
    default_keys,
    groups,
    groups_of,
    keys_of,
    keys_of_options,
    roots,
)
from stockenh.errors import ConfigError, DataError

# Hydra's flags, and whether a word of its own follows.
_FLAGS = {
    "--multirun": False, "-m": False, "--resolve": False, "--hydra-help": False, "--cfg": True, "-c": True,
    "--config-dir": True, "-cd": True, "--package": True, "-p": True, "--info": True, "-i": True,
}  # fmt: skip
# How other programs call these settings.
_ALIASES = {
    "learning_rate": "lr", "max_lr": "lr", "bs": "batch_size", "batch": "batch_size", "wd": "weight_decay",
    "epoch": "epochs", "n_epochs": "epochs", "num_epochs": "epochs", "max_epochs": "epochs",
    "trials": "n_trials", "workers": "n_workers", "num_workers": "n_workers", "horizon": "horizons",
    "random_seed": "seed", "num_layers": "layers", "n_layers": "layers", "num_heads": "heads",
    "grad_clip": "max_norm", "clip": "max_norm", "amp": "precision", "tickers": "symbols",
}  # fmt: skip
_OF_TEACHER = ("distill", "sweep_student")
_FILES = ("run_config", "ledger")  # keys of paths that are files
_NEEDED = ("data.path", "run", "teacher")
_SHOWN = 3
_ALIKE = 0.8  # of a misspelt name and the last part of a key


def keys_for(name: str, root: str, folders: Sequence[Path] = (), alike: bool = True) -> list[str]:
    """The keys and groups of a root config that a name may stand for, because one ends like it.

    alike: whether a misspelt end counts
    """
    if name in groups_of(root) or any(key.name == name for key in keys_of(root)):
        return [name]
    plain = name.replace("-", "_")
    dotted = plain.replace("_", ".", 1)
    leaf = plain.rpartition(".")[2]
    keys = [key.name for key in default_keys(root)]
    keys += [key for group in groups_of(root) for key in keys_of_options(group, *folders)]
    if dotted in keys:
        return [dotted]
    leaves = {key.rpartition(".")[2] for key in keys}
    near = difflib.get_close_matches(leaf, leaves, 1, _ALIKE) if alike else []
    for wanted in (leaf, _ALIASES.get(leaf, leaf), *near):
        if wanted in groups_of(root):
            return [wanted]
        if found := list(dict.fromkeys(key for key in keys if key.rpartition(".")[2] == wanted)):
            return found[:_SHOWN]
    return []


def instead(name: str, value: str, root: str, folders: Sequence[Path] = (), alike: bool = True) -> str | None:
    """`write optimizer.lr=1e-3` for a name that is no key of a root config; None where no key is like it."""
    if found := keys_for(name, root, folders, alike):
        return "write " + " or ".join(f"{key}={value}" for key in found)
    for other in roots():
        if other == root or other in _OF_TEACHER:
            continue
        if found := [key for key in keys_for(name, other, (), alike) if "." in key]:
            if other == "train" and "run" in {key.name for key in keys_of(root)}:
                return f"{found[0]} comes from run=RUN, and {_command(root)} can't change it"
            return f"{found[0]} is a key of {_command(other)}"
    return None


def refuse_words(root: str, arguments: Sequence[str], folders: Sequence[Path] = ()) -> None:
    """Raises ConfigError at the first argument that is neither KEY=VALUE nor a flag of Hydra, where there is
    something to write instead of it."""
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in _FLAGS:
            if _FLAGS[name] and not equals:
                del words[:1]
        elif word.startswith("-") and len(name.lstrip("-")) > 1:
            _refuse_flag(word, name.lstrip("-"), value if equals else _value(words), root, folders)
        elif equals and not word.startswith("-"):
            _refuse_empty_path(name.lstrip("+~"), value)
            _refuse_split_list(name, value, words)
        elif not equals and not word.startswith(("-", "~")) and word:
            _refuse_word(word, _value(words), root, arguments, folders)


def refuse_first_word(word: str, arguments: Sequence[str]) -> None:
    """Raises ConfigError where the path of `data check`, which stands before all else, is a key or a flag,
    and DataError where nothing is there."""
    name, equals, value = word.partition("=")
    if (file := Path(os.path.expanduser(word))).exists():
        return
    if not (equals or word.startswith("-")):
        from stockenh.storage.files import nothing_there  # imports YAML, which help does not need

        raise DataError(f"{word}: {nothing_there(file)}; give a CSV or Parquet file, or a folder of them")
    path = value if name.lstrip("-") in ("path", "data.path", "dir", "file") else ""
    others = [] if path else [word] if equals and not word.startswith("-") else []
    for argument in arguments:
        if path or "=" in argument:
            others.append(argument)
        else:
            path = argument
    written = [shlex.quote(part) for part in (path or "DIR", *others)]
    raise ConfigError(f"{word}: the path comes first, without a key: stockenh data check {' '.join(written)}")


def _refuse_empty_path(key: str, value: str) -> None:
    # what a shell makes of a variable that is not set; taken as a path, it is the working folder
    if key in PATH_KEYS and value in ("", "''", '""'):
        what = "DIR" if key.endswith(("dir", "path")) else "FILE" if key in _FILES else "RUN"
        rest = "" if key in _NEEDED else ", or leave it out"
        raise ConfigError(f"{key}= is empty: write {key}={what}{rest}")


def _refuse_split_list(name: str, value: str, following: Sequence[str]) -> None:
    """Raises ConfigError where a shell has split a list at its spaces, or where a bracket is missing."""
    if not value.startswith("[") or value.count("[") == value.count("]"):
        return
    parts = [value]
    for word in following:
        if "=" in word or word.startswith("-"):
            break
        parts.append(word)
        if word.endswith("]"):
            break
    items = [item for item in re.split(r"[\[\],\s]+", " ".join(parts)) if item]
    if len(parts) > 1:
        raise ConfigError(f"{name}: write a list without spaces: {name}=[{','.join(items)}]")
    if not (name.lstrip("+") in PATH_KEYS and Path(value).exists()):
        raise ConfigError(f"{name}={value}: a bracket is missing; write {name}=[{','.join(items)}]")


def _value(following: Sequence[str]) -> str:
    """The next word, where it looks like the value of the one before."""
    word = next((word for word in following if word != "="), "")
    return "" if word.startswith("-") or "=" in word else word


def _refuse_flag(word: str, name: str, value: str, root: str, folders: Sequence[Path]) -> None:
    name, shown = name.replace("-", "_"), shlex.quote(value) if value else ""
    if name == "plugins":
        raise ConfigError(f"{word}: no such flag; write --plugin {shown or 'FILE.py'}")
    where = {"config": "run_config", "resume": "resume", "resume_from": "resume", "run": "run"}
    if re.fullmatch(r"(run|out|output|save|log)[._]?(dir|folder|path)?", name) and name not in where:
        hint: str | None = f"write hydra.run.dir={shown or 'DIR'}"
    elif name in where and name not in groups_of(root):
        hint = f"write {where[name]}={shown or 'RUN'}"
    else:
        is_switch = not value and any(k.default in ("true", "false") for k in default_keys(root)
                                      if k.name in keys_for(name, root, folders))  # fmt: skip
        hint = instead(name, shown or ("true" if is_switch else "VALUE"), root, folders)
    if name in groups_of(root) and (path := as_data(name, value)):
        hint = path
    if hint is not None:
        raise ConfigError(f"{word}: no such flag; {hint}")


def as_data(group: str, value: str) -> str | None:
    """What to write where a path was given as the option of the group `data`; None where it is no path."""
    if group != "data" or value in groups().get("data", ()):
        return None
    path = Path(os.path.expanduser(value))
    if "/" in value or path.suffix in (".csv", ".parquet", ".txt") or (value and path.exists()):
        return f"write data=files data.path={shlex.quote(value)}"
    return None


def _refuse_word(
    word: str, following: str, root: str, arguments: Sequence[str], folders: Sequence[Path]
) -> None:
    if root == "data_check":
        raise ConfigError(f"{word}: one file or folder at a time; what follows it is KEY=VALUE")
    own, known = groups_of(root), groups(*folders)
    of_option = [group for group in own if word in known.get(group, ())]
    if of_option and not Path(word).exists():
        raise ConfigError(f"{word}: write {' or '.join(f'{group}={word}' for group in of_option[:_SHOWN])}")
    named = _as_path(word, root, arguments)
    looks_like_one = "/" in word or Path(word).suffix in (".yaml", ".yml", ".csv", ".parquet")
    if named is not None and (looks_like_one or Path(os.path.expanduser(word)).exists()):
        raise ConfigError(f"{word}: {named}")
    if found := keys_for(word, root, folders):
        raise ConfigError(f"{word}: write {found[0]}={following or 'VALUE'}")
    if named is not None and named.startswith("write run="):
        raise ConfigError(f"{word}: {named}")
    options = {option: group for group in own for option in known.get(group, ())}
    if near := difflib.get_close_matches(word, options, n=1, cutoff=0.7):
        raise ConfigError(f"{word}: write GROUP=OPTION or KEY=VALUE. Nearest: {options[near[0]]}={near[0]}")


def _as_path(word: str, root: str, arguments: Sequence[str]) -> str | None:
    """What to write for a path as this command takes it; None where it takes none, or has it already."""
    path, shown = Path(os.path.expanduser(word)), shlex.quote(word)
    keys = {argument.partition("=")[0] for argument in arguments}
    if root in _OF_TEACHER:
        return None if "teacher" in keys else f"write teacher={shown}"
    if "run" in {key.name for key in keys_of(root)}:
        return f"write data=files data.path={shown}" if "run" in keys else f"write run={shown}"
    if root == "track" and "ledger" not in keys:
        return f"write ledger={shown}"
    if path.suffix in (".yaml", ".yml"):
        return f"write run_config={shown}"
    if (path / "config.yaml").is_file() and root == "train":
        return f"write resume={shown} to continue it, or init_from={shown} to start with its weights"
    if any((path / name).is_file() for name in ("sweep.json", "about.json")):
        return f"write resume={shown}"
    return f"write data=files data.path={shown}"


def _command(root: str) -> str:
    return f"stockenh {root.replace('data_check', 'data check').replace('_', '-')}"
