"""The options that plugins bring to config groups: which are loaded, and what is known of each plugin.

Reading the config of a run looks an option up here. It imports nothing, whatever the config says: only
`stockenh.config.plugins` loads a plugin, and only one that the command line names or that is installed.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stockenh.errors import ConfigError, printable_line

FLAG = "--plugin"
LONGEST = 200  # of a name in a message
TARGET = re.compile(r"[^:]{1,200}:[A-Za-z0-9][\w-]{0,100}")  # mynet.py:mine


@dataclass(frozen=True)
class Plugin:
    """Where options come from.

    name:    mynet.py of a file, else the module that defines the option
    sha256:  of the source file; None where there is none
    flag:    what --plugin takes from every folder; None where no flag is needed
    """

    name: str
    sha256: str | None
    flag: str | None = None
    distribution: str | None = None
    version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "distribution": self.distribution,
            "version": self.version,
        }


@dataclass(frozen=True)
class Option:
    """An option of a config group that a plugin brings; text: its YAML, with comments."""

    plugin: Plugin
    group: str
    name: str
    kind: type
    text: str

    @property
    def target(self) -> str:
        """The `_target_` of its settings."""
        return f"{self.plugin.name}:{self.name}"


OPTIONS: dict[tuple[str, str], Option] = {}  # by group and name
BROKEN: dict[str, str] = {}  # why the module of an installed plugin could not be loaded


def named_in(words: Sequence[str]) -> list[str]:
    """What follows --plugin among the words of a shell; bash makes a word of its own of `=`."""
    found = []
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == FLAG:
            rest = [w for w in words[at + 1 : at + 3] if w != "="]
            found += [value] if equals and value else rest[:1]
    return found


def without_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What --plugin names among the arguments, and the other arguments. Raises ConfigError."""
    named, rest = list[str](), list[str]()
    following = iter(words)
    for word in following:
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            rest.append(word)
            continue
        value = value if equals else next(following, "")
        if not value or value.startswith("-"):
            raise ConfigError(f"{FLAG} needs a value: {FLAG} FILE.py, or the name of a module")
        named.append(value)
    return named, rest


def option_of(kind: type) -> Option | None:
    """The option whose settings class this is; None where it is no plugin's."""
    return next((option for option in OPTIONS.values() if option.kind is kind), None)


def class_of(group: str, target: str) -> type:
    """The settings class that a plugin's `_target_` names. Raises ConfigError where it is not loaded."""
    if not TARGET.fullmatch(target) or not target.isprintable():
        shown = printable_line(target[:80])
        raise ConfigError(f"{group}._target_={shown} is no class of this package and no plugin's option")
    plugin, _, name = target.rpartition(":")
    option = OPTIONS.get((group, name))
    if option is not None and option.plugin.name == plugin:
        return option.kind
    raise ConfigError(_missing(group, plugin, name))


def _missing(group: str, plugin: str, name: str) -> str:
    loaded = {option.plugin.name: option.plugin for option in OPTIONS.values()}
    if plugin in loaded:
        own = [o.name for o in OPTIONS.values() if o.plugin.name == plugin and o.group == group]
        has = f"it has {group}={', '.join(own)}" if own else f"it has no {group} at all"
        return f"this run's {group}={name} is not in the plugin {plugin} that is loaded: {has}"
    return f"this run's {group} comes from {missing(plugin)}"


def missing(plugin: str) -> str:
    """`the plugin mynet.py: add --plugin mynet.py`, or why it is not there."""
    plugin = printable_line(plugin[:LONGEST])
    if why := next((why for name, why in BROKEN.items() if f"{plugin}.".startswith(f"{name}.")), None):
        return f"the plugin {plugin}, which can't be loaded: {why}"
    given = {o.plugin.name for o in OPTIONS.values() if o.plugin.flag is not None}
    others = f", not from {', '.join(sorted(given))}" if given else ""
    install = "" if plugin.endswith(".py") else ", or install it"
    return f"the plugin {plugin}{others}: add {FLAG} {shlex.quote(plugin)}{install}"


def used(kinds: Iterable[type]) -> list[Plugin]:
    """The plugins of these settings classes, each once."""
    found = [option.plugin for kind in kinds if (option := option_of(kind)) is not None]
    return list(dict.fromkeys(found))


def unused(kinds: Iterable[type]) -> list[str]:
    """A line for each plugin of the command line that none of these settings classes comes from."""
    taken = used(kinds)
    others = dict.fromkeys(o.plugin for o in OPTIONS.values() if o.plugin.flag is not None)
    return [
        f"nothing of {FLAG} {plugin.name} is used; it has "
        + ", ".join(f"{group}={name}" for (group, name), o in OPTIONS.items() if o.plugin == plugin)
        for plugin in others
        if plugin not in taken
    ]


def changed(plugins: Iterable[Plugin], recorded: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each plugin that is not as a manifest or a multirun's folder records it."""
    before = {entry["name"]: entry for entry in recorded}
    lines = []
    for plugin in plugins:
        known = before.get(plugin.name)
        if known is None or known["sha256"] == plugin.sha256:
            continue
        versions = [v for v in (known.get("version"), plugin.version) if v is not None]
        which = f" (version {versions[0]} then, {versions[1]} now)" if len(set(versions)) == 2 else ""
        lines.append(
            f"the plugin {plugin.name} is not the one that was used{which}: its sha256 was "
            f"{_short(known['sha256'])} and is {_short(plugin.sha256)} now"
        )
    return lines


WARNED: set[str] = set()  # lines of this command


def warn(line: str) -> None:
    """Prints a line on standard error, once in a command."""
    if line not in WARNED:
        WARNED.add(line)
        print(f"stockenh: {printable_line(line)}", file=sys.stderr)


def _short(sha256: str | None) -> str:
    return f"{sha256[:16]}..." if sha256 else "unknown"
