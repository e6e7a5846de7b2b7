"""Hydra at work for a subcommand: composing, run folders and multirun, with errors in one or two lines."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stockenh.config import leftovers
from stockenh.config.overrides import (
    conf_dir,
    config_folders,
    groups,
    keys_of_options,
    nearest,
    options_with_key,
    quote_paths,
    split_override,
    suggest,
)
from stockenh.config.schema import GROUPS, literals
from stockenh.errors import ConfigError

# The option of each group that is a run's own choice.
OF_RUN = "of_run"
VERSION_BASE = "1.3"  # of Hydra, whose behaviour it fixes
# What other programs call the folder of a run.
_RUN_DIR = re.compile(
    r"(run|out|output|save|log|work|exp)[._]?(dir|folder|path)|out|output|outputs|dir|folder"
)
# Where each job's overrides are told.
_LAUNCHERS = ("hydra._internal.core_plugins.basic_launcher", "hydra_plugins.hydra_joblib_launcher._core")
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)


def run(task: Callable[[DictConfig], Any], arguments: list[str]) -> None:
    """Calls `task` with the composed config, in a run folder of Hydra's; once per job under --multirun.

    Raises ConfigError where the config can't be composed, and whatever the task raises.
    """
    flags, given, sweeping = _sort(arguments)
    # what --config-dir brings is often an experiment, and + before it is the habit of other programs
    given = [a.removeprefix("+") if a.startswith("+experiment=") else a for a in given]
    quoted = quote_paths(given, sweeping)
    _check(given, quoted, sweeping, groups(*config_folders(flags)))
    main = hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name="config")(task)
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [argv[0], *flags, *quoted]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
    try:
        with leftovers.noting(given), _quiet_launcher(), _mode_of_flags(flags, given):
            main()
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error, arguments)) from None
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


class _Filtered:
    """Standard error without the line in which Hydra repeats a failed job's overrides."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        return (
            len(text) if text.startswith("Error executing job with overrides") else self._stream.write(text)
        )


@contextlib.contextmanager
def _mode_of_flags(flags: list[str], given: list[str]) -> Iterator[None]:
    """Keeps Hydra from composing all once more, only to learn that no config sets hydra.mode.

    A user's own config, or override, may set it.
    """
    own = any(flag.startswith(("-c", "--c")) for flag in flags)
    own = own or any(key in a for a in given for key in ("hydra.mode", "hydra.searchpath"))
    asks = Hydra.get_mode
    if not own:
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = asks  # type: ignore[method-assign]


@contextlib.contextmanager
def _quiet_launcher() -> Iterator[None]:
    filtered: Any = _Filtered(sys.stderr)
    logs = [logging.getLogger(name) for name in _LAUNCHERS]
    for log in logs:
        log.addFilter(_without_internals)
    try:
        with contextlib.redirect_stderr(filtered):
            yield
    finally:
        for log in logs:
            log.removeFilter(_without_internals)


def _without_internals(record: logging.LogRecord) -> bool:
    """Leaves the choices that stand for a run's own out of the line that announces a job."""
    record.msg = re.sub(rf" [\w.]+={OF_RUN}\b", "", str(record.msg))
    return True


def based_on(
    config: Mapping[str, Any],
    arguments: list[str],
    of_run: Iterable[str] = GROUPS,
    nodes: Iterable[str] = ("seed", "threads", "train", "tta"),
) -> list[str]:
    """The arguments with a run's config under them: what they don't say is as that run had it.

    Each group in `of_run` becomes an option `of_run` that lives in memory, and with them the other nodes.
    Where the arguments take another data source, what a model's inputs depend on (horizons, lookback,
    timeframes) stays the run's. The device and the cache are not the run's business. Raises ConfigError for
    experiment= where nodes are taken: it would replace them.
    """
    given = dict(parts for a in arguments if (parts := split_override(a)))
    nodes = tuple(nodes)
    if nodes and given.get("experiment", "null") != "null":
        raise ConfigError("experiment can't be given with run=RUN: the run has its own choices")
    store, under = ConfigStore.instance(), []
    for group in of_run:
        if group not in given:
            store.store(OF_RUN, literals(config[group]), group=group)
            under.append(f"{group}={OF_RUN}")
    if "data" in given:
        folders = config_folders(arguments)
        for key in ("horizons", "lookback", "timeframes"):
            if key in config["data"] and f"data={given['data']}" in options_with_key("data", key, *folders):
                value = config["data"][key]
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                under.append(f"data.{key}=[{text}]" if isinstance(value, list) else f"data.{key}={text}")
    if not nodes:
        return [*under, *arguments]
    rest = {key: literals(config[key]) for key in nodes if key in config}
    store.store(OF_RUN, rest, group="experiment", package="_global_")
    return [*under, f"experiment={OF_RUN}", *arguments]


def compose(arguments: list[str], folders: Sequence[Path] = ()) -> DictConfig:
    """The composed config alone, without a run folder; folders: as of --config-dir. Raises ConfigError."""
    quoted = quote_paths(arguments)
    _check(arguments, quoted, sweeping=False, known=groups(*folders))
    more = [f"hydra.searchpath=[{_searched(folders)}]"] if folders else []
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE):
            return hydra.compose("config", [*more, *quoted])
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error, arguments)) from None


def _searched(folders: Iterable[Path]) -> str:
    return ",".join(f"'file://{folder.absolute()}'" for folder in folders)


def explain(error: Exception, arguments: list[str]) -> str:
    """One or two lines for a composition error: the override at fault and the nearest valid names."""
    text = str(error)
    known = groups(*config_folders(arguments))
    if found := re.search(r"Could not find '([^']+)/([^'/]*)'", text):
        group, option = found.groups()
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE) or known.get(group, [])
        return f"{group}={option}: no such {group}. {suggest(option, options, all_options=True)}"
    if found := re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text):
        return _unknown_key(found[1] or found[2], known, arguments)
    if found := re.search(r"Multiple values for (\w+)|^(\w+) appears more than once", text):
        group = found[1] or found[2]
        return f"{group} has a value already: write {group}=... without a + before it"
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: not readable YAML: {error.problem}"
    lines = [line.strip().rstrip(".:") for line in text.splitlines() if line.strip()]
    cause = [str(error.__cause__).splitlines()[0]] if error.__cause__ else []
    return ". ".join(dict.fromkeys([*lines[:2], *cause]))


def _sort(arguments: list[str]) -> tuple[list[str], list[str], bool]:
    """Hydra's flags, which it wants first; the overrides; whether --multirun is among the flags."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = get_args_parser().parse_intermixed_args(arguments)
    except SystemExit as end:
        if not end.code:
            raise
        message = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise ConfigError(f"{message}. See: stockenh train --help") from None
    overrides = list(parsed.overrides)
    flags = []
    for argument in arguments:
        if overrides and argument == overrides[0]:
            del overrides[0]
        else:
            flags.append(argument)
    return flags, list(parsed.overrides), bool(parsed.multirun)


def _check(given: list[str], quoted: list[str], sweeping: bool, known: dict[str, list[str]]) -> None:
    """Raises ConfigError with the first override that Hydra would refuse without naming it, or crash on."""
    parser = OverridesParser.create()
    for argument, text in zip(given, quoted, strict=True):
        key, equals, value = argument.partition("=")
        if not (key and equals) and not argument.startswith("~"):
            raise ConfigError(f"{argument}: write GROUP=OPTION or KEY=VALUE")
        try:
            override = parser.parse_override(text)
        except HydraException:
            raise ConfigError(
                f"{argument}: the value has a character that Hydra's grammar reserves; quote it twice: "
                f"{key}=\"'{value}'\""
            ) from None
        if override.is_delete():
            continue
        if override.is_sweep_override():
            if not sweeping:
                raise ConfigError(
                    f"{argument} holds several values: add --multirun for a run each, or write a list: "
                    f"{key}=[{value}]"
                )
        elif override.key_or_group in known and not isinstance(override.value(), str | list):
            options = known[override.key_or_group]
            raise ConfigError(f"{argument}: no such {key}. {suggest(value, options, all_options=True)}")


def _unknown_key(key: str, known: dict[str, list[str]], arguments: list[str]) -> str:
    group, _, rest = key.partition(".")
    if _RUN_DIR.fullmatch(key):
        return f"{key}: no such key. The folder of a run is hydra.run.dir=DIR"
    if group == "hydra":
        return f"{key}: Hydra has no such key. See: stockenh train --cfg hydra"
    folders = config_folders(arguments)
    keys = _keys_with_choices(known, arguments)
    if rest and (elsewhere := options_with_key(group, rest, *folders)):
        line = f"{key} belongs to {' or '.join(elsewhere)}: add that to the command"
        chosen = next((a for a in arguments if a.startswith(f"{group}=")), None)
        own = [name for name in keys if chosen and name.startswith(f"{group}.")]
        like = nearest(key, own)
        return f"{line}. {chosen} has {', '.join(like)}" if like else line
    inside = [name for name in keys if rest and name.startswith(f"{group}.")]
    if "." in rest and not any(name.startswith(key.rpartition(".")[0]) for name in inside):
        inside += keys_of_options(group, *folders)
    near = suggest(key, inside or [*known, *keys])
    if near.startswith("Options") and not inside:
        near = suggest(key, {*known, *(name.split(".")[0] for name in keys)})
    return f"{key}: no such key. {near}"


def _keys_with_choices(known: dict[str, list[str]], arguments: list[str]) -> list[str]:
    """The dotted keys of the config that the valid group choices among the arguments give."""
    choices = [
        argument
        for argument in arguments
        if (parts := split_override(argument)) and parts[1] in known.get(parts[0], [])
    ]
    folders = _searched(config_folders(arguments))
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE):
            config = hydra.compose("config", [f"hydra.searchpath=[{folders}]", *choices])
    except COMPOSITION_ERRORS:
        return []  # a choice is itself at fault
    return _dotted(OmegaConf.to_container(config, resolve=False))


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict) or not node:
        return [prefix.rstrip(".")]
    return [name for k, v in node.items() if k != "_target_" for name in _dotted(v, f"{prefix}{k}.")]
