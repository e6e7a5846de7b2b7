"""What every subcommand that Hydra composes shares: a job in a folder, the runs it names, and how it ends."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from stockenh.commands.multirun.worker import current
from stockenh.config.leftovers import take_away
from stockenh.config.overrides import quote_paths, split_override
from stockenh.config.schema import plain
from stockenh.errors import ConfigError, StockenhError
from stockenh.storage.files import expanded
from stockenh.storage.run_folder import RunFolder

log = logging.getLogger(__name__)

_NEAR = 0.6  # how like each other a key and a misspelt one are


def run_job(cfg: DictConfig, task: Callable[[dict[str, Any], RunFolder], None]) -> None:
    """Calls the task with the composed config and Hydra's folder; what a user can mend becomes a line.

    A job that is refused before anything came of it leaves no folder. In a grid the other jobs go on.
    """
    job = HydraConfig.get()
    folder = RunFolder(Path(job.runtime.output_dir))
    is_plain = job.sweeper["_target_"].endswith(".BasicSweeper")
    in_grid = is_plain and job.mode == RunMode.MULTIRUN
    try:
        raw = plain(cfg)
        if raw.pop("resume", None) is not None:
            raise ConfigError("resume=RUN is for train, stands on the command line, and not with --multirun")
        make_paths_absolute(raw)
        task(raw, folder)
    except StockenhError as error:
        log.error("%s", error)
        if error.exit_code == ConfigError.exit_code and is_plain:
            take_away(folder.path)
        if in_grid:
            raise _told(job.job.num, str(error), error.exit_code) from None
        if job.mode == RunMode.MULTIRUN:
            raise
        exit_with(str(error), error.exit_code)
    except Exception as error:
        log.exception("unexpected failure")
        if in_grid:
            what = f"{type(error).__name__}: {error}; more in {folder.log}"
            raise _told(job.job.num, what, StockenhError.exit_code) from None
        raise


def _told(number: int, message: str, code: int) -> StockenhError:
    """Says why a job of a grid failed, while the others go on; what is raised when all are done."""
    say(f"job {number}: {message}")
    kind = ConfigError if code == ConfigError.exit_code else StockenhError
    return kind(f"job {number} failed; the folders of those that did not stay")


def refuse_run(raw: dict[str, Any]) -> None:
    """Raises ConfigError where a command that makes a run of its own is given a finished one."""
    if raw["run"] is not None:
        raise ConfigError(
            "run= belongs to commands that work on a finished run, such as stockenh tta-predict; to begin "
            "with a run's weights write init_from=RUN, to continue it stockenh train resume=RUN"
        )


def refuse_sweep(raw: dict[str, Any]) -> None:
    """Raises ConfigError where a single run is given what makes many."""
    if raw.get("sweep") is not None and current() is None:
        raise ConfigError(
            "sweep= makes a search of many runs: stockenh sweep, or stockenh train --multirun sweep=..."
        )
    if raw.get("ablate") is not None and current() is None:
        raise ConfigError("ablate= makes a comparison of many runs: stockenh ablate")


def refuse_old_folder(given: list[tuple[str, str]], leaves: str | None = None) -> None:
    """Raises ConfigError where the folder asked for holds a run, before Hydra writes into it.

    leaves: what the command leaves there, where that is no run that could be continued
    """
    for key, value in given:
        if key == "hydra.run.dir":
            folder = RunFolder(unquoted(value))
            if leaves and folder.config.is_file():
                raise ConfigError(
                    f"hydra.run.dir={value} holds a run: {leaves} a folder of its own; name another, or "
                    f"leave hydra.run.dir out"
                )
            folder.refuse_if_run()


def finished_run(arguments: list[str], name: str = "run") -> RunFolder:
    """The folder of run=RUN, or what else the override is called; it must hold a whole run."""
    for argument, quoted in zip(arguments, quote_paths(arguments), strict=True):
        if (split_override(argument) or ("",))[0] == name:
            folder = RunFolder.open(expanded(str(value_of(argument, quoted))))
            folder.require_finished()
            return folder
    raise ConfigError(_missing(name, [parts[0] for a in arguments if (parts := split_override(a))]))


def _missing(name: str, given: list[str]) -> str:
    """What to say where the run is not named: the key that was perhaps meant for it."""
    other = {"run": "teacher", "teacher": "run"}[name]
    if other in given:
        return f"{other}= names no run for this command: write {name}=RUN"
    if near := difflib.get_close_matches(name, given, n=1, cutoff=_NEAR):
        return f"{near[0]}: no such key. Nearest: {name}"
    if near := difflib.get_close_matches("resume", given, n=1, cutoff=_NEAR):
        return f"{near[0]}: no such key. Nearest: resume"
    return f"{name}= must be given: {name}=RUN, a folder that stockenh train left in outputs/"


def value_of(argument: str, quoted: str) -> Any:
    """The value of an override, read by Hydra's grammar. Raises ConfigError naming the argument."""
    try:
        return OverridesParser.create().parse_override(quoted).value()
    except HydraException as error:
        raise ConfigError(f"{argument}: {str(error).splitlines()[0]}") from None


def several(value: str) -> list[str]:
    """The paths that `[A,B]` names, or the one that stands alone."""
    if not (value.startswith("[") and value.endswith("]")) or expanded(value).exists():
        return [value]
    return [part.strip().strip("'\"") for part in value[1:-1].split(",") if part.strip()]


def listed(paths: Sequence[str]) -> str:
    """The inverse of `several`."""
    return paths[0] if len(paths) == 1 else f"[{','.join(paths)}]"


def unquoted(value: str) -> Path:
    """The path that an override's value names."""
    return Path(value.strip("'\"")).expanduser()


def make_paths_absolute(raw: dict[str, Any]) -> None:
    """A run must find its data and what it began with from whatever folder it is taken up in."""
    for key in ("init_from", "teacher", "run"):
        if isinstance(raw.get(key), str):
            raw[key] = listed([str(expanded(path).absolute()) for path in several(raw[key])])
    node = raw.get("data")
    if isinstance(node, dict) and isinstance(node.get("path"), str) and node["path"] != "???":
        node["path"] = str(expanded(node["path"]).absolute())
    node = raw.get("embedding")
    if isinstance(node, dict):
        # what is no folder may be a Hub id, OWNER/NAME
        for key in {"checkpoint", "tokenizer"} & node.keys():
            path = expanded(str(node[key]))
            if path.is_dir() or str(node[key]).startswith((".", "~")):
                node[key] = str(path.absolute())


def say(message: str) -> None:
    """A line on standard error."""
    from stockenh.report.terminal import console

    console(stderr=True).print(f"stockenh: {message}", markup=False, soft_wrap=True)


def exit_with(message: str, code: int) -> NoReturn:
    """Says a line on standard error and leaves with this exit code."""
    say(message)
    raise SystemExit(code)
