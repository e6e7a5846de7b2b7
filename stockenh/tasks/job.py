"""What every subcommand that Hydra composes shares: a job in a folder, the runs it names, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from stockenh.config import plain
from stockenh.errors import ConfigError, StockenhError
from stockenh.files import expanded
from stockenh.overrides import quote_paths, split_override
from stockenh.runfolder import RunFolder
from stockenh.sweep.assignment import current

log = logging.getLogger(__name__)


def run_job(cfg: DictConfig, task: Callable[[dict[str, Any], RunFolder], None]) -> None:
    """Calls the task with the composed config and Hydra's folder; what a user can mend becomes a line."""
    job = HydraConfig.get()
    try:
        raw = plain(cfg)
        if raw.pop("resume", None) is not None:
            raise ConfigError("resume=RUN is for train, stands on the command line, and not with --multirun")
        make_paths_absolute(raw)
        task(raw, RunFolder(Path(job.runtime.output_dir)))
    except StockenhError as error:
        log.error("%s", error)
        if job.mode == RunMode.MULTIRUN:
            raise  # the other jobs of the grid go on, and the failure is told at the end
        exit_with(str(error), error.exit_code)
    except Exception:
        log.exception("unexpected failure")
        raise


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


def refuse_old_folder(given: list[tuple[str, str]]) -> None:
    """Raises ConfigError where the folder asked for holds a run, before Hydra writes into it."""
    for key, value in given:
        if key == "hydra.run.dir":
            RunFolder(unquoted(value)).refuse_if_run()


def finished_run(arguments: list[str], name: str = "run") -> RunFolder:
    """The folder of run=RUN, or what else the override is called; it must hold a whole run."""
    for argument, quoted in zip(arguments, quote_paths(arguments), strict=True):
        if (split_override(argument) or ("",))[0] == name:
            folder = RunFolder.open(expanded(str(value_of(argument, quoted))))
            folder.require_finished()
            return folder
    raise ConfigError(f"{name}= must be given: {name}=RUN, a folder that stockenh train left in outputs/")


def value_of(argument: str, quoted: str) -> Any:
    """The value of an override, read by Hydra's grammar. Raises ConfigError naming the argument."""
    try:
        return OverridesParser.create().parse_override(quoted).value()
    except HydraException as error:
        raise ConfigError(f"{argument}: {str(error).splitlines()[0]}") from None


def unquoted(value: str) -> Path:
    """The path that an override's value names."""
    return Path(value.strip("'\"")).expanduser()


def make_paths_absolute(raw: dict[str, Any]) -> None:
    """A run must find its data and what it began with from whatever folder it is taken up in."""
    for key in ("init_from", "teacher", "run"):
        if isinstance(raw.get(key), str):
            raw[key] = str(expanded(raw[key]).absolute())
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


def exit_with(message: str, code: int) -> None:
    """Says a line on standard error and leaves with this exit code."""
    from stockenh.terminal import console

    console(stderr=True).print(f"stockenh: {message}", markup=False, soft_wrap=True)
    raise SystemExit(code)
