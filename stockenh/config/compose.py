"""Composes a command's config with Hydra and runs the command: once in this process, or by --multirun.

A single run is composed first, and its folder is made when there is something to write. Hydra itself runs
multiruns and the flags that only show a config.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from stockenh.config import plugins, registry
from stockenh.config.catalog import conf_dir, groups, groups_of, options_with_key
from stockenh.config.hints import as_data
from stockenh.config.overrides import (
    config_folders,
    explain_error,
    hydra_text,
    make_paths_absolute,
    quote_paths,
    refuse_odd_text,
    shortened,
    split_override,
    unquoted,
    wrong_option,
)
from stockenh.config.schema import GROUPS, config_from, literals, parse, plain
from stockenh.data import INPUT_KEYS
from stockenh.errors import ConfigError, DataError, StockenhError
from stockenh.storage.files import DiskError, expanded, nothing_there, write_atomic
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import require_plain_folder

# The option of each group that is a finished run's own choice, and the end of the names of roots with them.
OF_RUN = "of_run"
RUN_CONFIG = "run_config"  # names a YAML file with a whole config
VERSION_BASE = "1.3"  # of Hydra, whose behaviour it fixes
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
BUFFERED_RECORDS = 10_000
MOST_CHECKED = 32  # jobs of a grid
LONGEST_NAME = 200  # of an option, whose file has 255 characters at most

Body = Callable[[dict[str, Any], RunFolder], None]
log = logging.getLogger(__name__)


def run(root: str, body: Body, arguments: list[str]) -> None:
    """Composes a root config with the arguments and calls `body` with it and the folder of the job.

    root: a file of conf/, or what `with_run` returns; under --multirun `body` is called once per job.
    Raises ConfigError where the config can't be composed, and whatever the body raises.
    """
    flags, given = _parse(arguments)
    # what --config-dir brings is often an experiment, and + before it is the habit of other programs
    given = [a.removeprefix("+") if a.startswith("+experiment=") else a for a in given]
    quoted = quote_paths(given, flags.multirun)
    folders = config_folders(flags.words)
    _check(root, given, quoted, flags.multirun, folders)
    try:
        if not flags.for_hydra:
            config = _compose(root, quoted, folders)
            if config.hydra.mode != RunMode.MULTIRUN:
                _require_bars(config, given)
                with _single_job(config) as job:
                    body(*job)
                return
        elif flags.multirun and root in ("train", "find_lr"):
            _refuse_hopeless_grid(root, quoted, folders)
        _run_by_hydra(root, body, [*flags.words, *quoted])
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain_error(error, root, arguments)) from None


def _require_bars(config: DictConfig, given: Sequence[str]) -> None:
    """Raises DataError where nothing is at the path of bars that a command names: torch is not needed yet."""
    names_path = any((split_override(a) or ("",))[0] == "data.path" for a in given)
    if names_path and OmegaConf.select(config, "data._target_", default="").endswith(".FilesData"):
        path = expanded(str(config.data.path)).absolute()
        if not path.exists():
            fix = "set data.path to a CSV or Parquet file, or to a folder of them"
            raise DataError(f"{path}: {nothing_there(path)}; {fix}")


def compose(arguments: Sequence[str], root: str = "train", folders: Sequence[Path] = ()) -> DictConfig:
    """The composed config alone, without Hydra's node; folders: as of --config-dir. Raises ConfigError."""
    quoted = quote_paths(list(arguments))
    _check(root, list(arguments), quoted, sweeping=False, folders=folders)
    try:
        return _without_hydra(_compose(root, quoted, folders))
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain_error(error, root, arguments)) from None


def with_run(
    root: str,
    config: Mapping[str, Any],
    arguments: Sequence[str],
    of_run: Iterable[str] = ("data", "embedding"),
    nodes: Iterable[str] = ("seed", "threads", "tta"),
) -> str:
    """A root config like `root` whose defaults are a finished run's; its name, for `run`.

    config: of the run; of_run: the groups whose option is the run's own, called `of_run` in memory; nodes:
    keys that are the run's. Where the arguments take other data, what a model's inputs depend on
    (`INPUT_KEYS`) stays the run's.
    """
    given = dict(parts for a in arguments if (parts := split_override(a)))
    store, defaults = ConfigStore.instance(), list[Any]([root])
    for group in of_run:
        if group not in given:
            store.store(OF_RUN, literals(config[group]), group=group)
            defaults.append({f"override {group}": OF_RUN})
    node = {key: literals(config[key]) for key in nodes if key in config and key not in GROUPS}
    if "data" in given and "data" in config:
        folders = config_folders(list(arguments))
        kept = {
            key: config["data"][key]
            for key in INPUT_KEYS
            if key in config["data"] and f"data={given['data']}" in options_with_key("data", key, *folders)
        }
        node |= {"data": kept} if kept else {}
    name = f"{root}_{OF_RUN}"
    store.store(name, {"defaults": [*defaults, "_self_"], **node})
    return name


def with_file(root: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """A root config with what run_config=FILE holds as its defaults, for `run`, and the other arguments.

    Without such an argument the root itself. Raises ConfigError where the file can't be read as a config.
    """
    config, rest = config_file(arguments)
    if not config:
        return root, rest
    return with_run(root, config, rest, of_run=config.keys() & GROUPS.keys(), nodes=config.keys()), rest


def config_file(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The content of run_config=FILE, see `config_from`, and the other arguments; empty without one."""
    keyed = [(a, *(split_override(a) or ("", ""))) for a in arguments]
    rest = [a for a, key, _ in keyed if key != RUN_CONFIG]
    paths = [value for _, key, value in keyed if key == RUN_CONFIG]
    if not paths:
        return {}, rest
    if chosen := [a for a, key, value in keyed if key == "experiment" and value != "null"]:
        raise ConfigError(f"{chosen[0]} and {RUN_CONFIG}= are both whole recipes: take one of them")
    return config_from(unquoted(paths[-1])), rest


_OPEN: ContextVar[Callable[[], None] | None] = ContextVar("makes the folder of the current job", default=None)


def open_folder() -> None:
    """Makes the folder of the current job, with .hydra/ and run.log; does nothing in a job of Hydra's own."""
    if (make := _OPEN.get()) is not None:
        make()


def _require_folder(directory: Path, bars: str | None) -> None:
    """Raises ConfigError where a job's folder can't be made or holds the bars: before the job's work."""
    there = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ConfigError(f"{there} is no folder: name another one, hydra.run.dir=DIR")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{there}: no permission to write there; name another folder, hydra.run.dir=DIR")
    if bars not in (None, "???") and there == directory and os.path.realpath(bars) == os.path.realpath(there):
        raise ConfigError(f"hydra.run.dir={directory} is the folder of the bars: name another one")


@contextmanager
def _single_job(config: DictConfig) -> Iterator[tuple[dict[str, Any], RunFolder]]:
    """A job that is not Hydra's own: its config, and its folder, which is made at the end at the latest.

    The log is kept in memory until the folder is made, and errors are written to it.
    """
    HydraConfig.instance().set_config(config)
    directory = Path(str(config.hydra.run.dir)).absolute()
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(directory)
    HydraConfig.instance().set_config(config)
    _require_folder(directory, OmegaConf.select(config, "data.path", default=None))
    buffer = MemoryHandler(BUFFERED_RECORDS, logging.CRITICAL + 1)

    @functools.cache
    def open_once() -> None:
        node = config.hydra
        require_plain_folder(directory, to_write=True)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "name another folder, hydra.run.dir=DIR"
            raise DiskError(f"{directory} can't be made: {error.strerror}; {fix}") from None
        if node.output_subdir is not None:
            about = directory / node.output_subdir
            about.mkdir(parents=True, exist_ok=True)
            hydra_node = OmegaConf.masked_copy(config, "hydra")
            parts = {"config": _without_hydra(config), "hydra": hydra_node, "overrides": node.overrides.task}
            for name, part in parts.items():
                write_atomic(about / f"{name}.yaml", OmegaConf.to_yaml(part).encode())
        configure_log(node.job_logging, node.verbose)
        for record in buffer.buffer:
            logging.getLogger(record.name).handle(record)

    token, root = _OPEN.set(open_once), logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(buffer)
    try:
        yield _raw(_without_hydra(config)), RunFolder(directory)
        open_once()
    except StockenhError as error:
        log.error("%s", error)
        raise
    except Exception:
        log.exception("unexpected failure")
        raise
    finally:
        root.removeHandler(buffer)
        _OPEN.reset(token)


@dataclass(frozen=True)
class Job:
    """What Hydra and its launchers call for each job of a multirun. Can be pickled where `body` can.

    handed: the plugins of the command, for a job in another process
    """

    body: Body
    handed: list[plugins.Handed] = field(default_factory=plugins.handed)

    def __call__(self, config: DictConfig) -> None:
        """Raises StockenhError where the job failed; the others of a grid go on."""
        plugins.take(self.handed)
        job = HydraConfig.get()
        folder = RunFolder(Path(job.runtime.output_dir))
        is_grid = job.sweeper["_target_"].endswith(".BasicSweeper")
        try:
            self.body(_raw(config), folder)
        except StockenhError as error:
            log.error("%s", error)
            if is_grid:
                raise _failed(job.job.num, str(error), error.exit_code) from None
            raise
        except Exception as error:
            log.exception("unexpected failure")
            if is_grid:
                what = f"{type(error).__name__}: {error}; more in {folder.log}"
                raise _failed(job.job.num, what, StockenhError.exit_code) from None
            raise


def _raw(config: DictConfig) -> dict[str, Any]:
    raw = plain(config)
    make_paths_absolute(raw)
    return raw


def _failed(number: int, message: str, code: int) -> StockenhError:
    """Prints why a job of a grid failed, while the others go on; returns what is raised when all are done."""
    print(f"stockenh: job {number}: {message}", file=sys.stderr)
    kind = ConfigError if code == ConfigError.exit_code else StockenhError
    return kind(f"job {number} failed; its folder has run.log, those of the others their results")


def _run_by_hydra(root: str, body: Body, arguments: list[str]) -> None:
    for key, value in (parts for a in arguments if (parts := split_override(a))):
        if key == "hydra.sweep.dir":  # Hydra makes the folders of its jobs before anything here is called
            require_plain_folder(unquoted(value), to_write=True)
    main = hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=root)(Job(body))
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
    try:
        main()
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _compose(root: str, quoted: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """The config with Hydra's node."""
    searched = ",".join(hydra_text(f"file://{folder.absolute()}") for folder in folders)
    more = [f"hydra.searchpath=[{searched}]"] if folders else []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir: '{folder}' not found")
    with hydra.initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE, job_name="stockenh"):
        return hydra.compose(root, [*more, *quoted], return_hydra_config=True)


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


@dataclass
class _Flags:
    """Hydra's flags among the arguments, each as it was given."""

    words: list[str]
    multirun: bool
    for_hydra: bool  # whether Hydra itself must run, or only show something


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See: stockenh --help")


def _parse(arguments: Sequence[str]) -> tuple[_Flags, list[str]]:
    """Hydra's flags, which it wants first, and the overrides. Raises ConfigError for an unknown flag."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--info", "-i", nargs="?", const="all")
    for flag in ("--resolve", "--hydra-help"):
        parser.add_argument(flag, action="store_true")
    for names in (("--config-dir", "-cd"), ("--package", "-p")):
        parser.add_argument(*names)
    parsed = parser.parse_intermixed_args(arguments)
    rest, words = list(parsed.overrides), []
    for argument in arguments:
        if rest and argument == rest[0]:
            del rest[0]
        else:
            words.append(argument)
    shows = bool(parsed.cfg or parsed.info or parsed.hydra_help)
    return _Flags(words, parsed.multirun, shows or parsed.multirun), list(parsed.overrides)


def _check(
    root: str, given: Sequence[str], quoted: Sequence[str], sweeping: bool, folders: Sequence[Path]
) -> None:
    """Raises ConfigError with the first override that Hydra would refuse without naming it, or crash on."""
    parser, known = OverridesParser.create(), groups(*folders)
    own = groups_of(root.removesuffix(f"_{OF_RUN}"))
    for argument, text in zip(given, quoted, strict=True):
        refuse_odd_text(argument)
        key, equals, value = argument.partition("=")
        if key.lstrip("+-") in ("plugin", "plugins"):
            raise ConfigError(f"{key}: no such key. Write {registry.FLAG} {value or 'FILE.py'}")
        if key.lstrip("+") == "hydra.verbose" and _is_number(value):
            raise ConfigError(f"{argument}: write true, false, or the names of loggers")
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
        elif ((group := override.key_or_group) in {*own, *known} or "/" in group) and (
            not _names_options(override.value()) or as_data(group, value)
        ):
            raise ConfigError(wrong_option(group, shortened(value), known.get(group, [])))


def _names_options(value: Any) -> bool:
    """Whether a value may be the option of a group: a name that a file can have, or a list of them."""
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("null", "") or text.startswith("{")
    return True


def _refuse_hopeless_grid(root: str, quoted: Sequence[str], folders: Sequence[Path]) -> None:
    """Raises ConfigError where no job of a grid has a valid config, before Hydra makes folders for them."""
    overrides = OverridesParser.create().parse_overrides(list(quoted))
    if any(o.is_interval_sweep() for o in overrides):
        return
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [text]
        for o, text in zip(overrides, quoted, strict=True)
    ]
    refusals = []
    for job in itertools.islice(itertools.product(*choices), MOST_CHECKED):
        try:
            parse(plain(_without_hydra(_compose(root, job, folders))))
        except ConfigError as error:
            refusals.append(error)
        else:
            return
    raise refusals[0]
