"""A run that is continued: its config with what may change, and whether anything is left to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockenh.config.compose import compose
from stockenh.config.overrides import make_paths_absolute, split_override, suggest, value_of
from stockenh.config.schema import RunConfig, config_of, parse, plain, upgraded
from stockenh.errors import ConfigError, RunFolderError
from stockenh.storage.files import expanded
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file

RESUME_KEYS = (
    "train.epochs", "device", "data.path", "embedding.checkpoint", "embedding.tokenizer", "cache_dir",
    "tracker",
)  # fmt: skip
NOT_TRACKED = {"_target_": "stockenh.report.trackers.NoTracker"}


def resumed_run(arguments: list[str]) -> tuple[RunFolder, RunConfig, dict[str, Any]]:
    """The folder of resume=RUN, its config with what changes, and these changes by dotted key."""
    changes = _resume_overrides([a for a in arguments if not _is_of_tracker(a)])
    if of_tracker := [a for a in arguments if _is_of_tracker(a)]:
        changes["tracker"] = plain(compose(of_tracker))["tracker"]
    folder = RunFolder.open(expanded(changes.pop("resume")))
    return folder, changed_config(folder, changes), changes


def changed_config(folder: RunFolder, changes: Mapping[str, Any]) -> RunConfig:
    """The config of a run that is resumed with these changes. Raises ConfigError, RunFolderError."""
    raw: dict[str, Any] = {**upgraded(folder.read_config()), "cache_dir": None, "tracker": NOT_TRACKED}
    for key, value in changes.items():
        node, _, leaf = key.rpartition(".")
        target = raw.get(node) if node else raw
        if not isinstance(target, dict) or leaf not in target:
            raise ConfigError(f"{key}: the run's config has no such key, which other options have")
        target[leaf] = value
    make_paths_absolute(raw)
    try:
        config = parse(raw)
    except ConfigError as error:
        raise RunFolderError(f"{folder.config}: {error}") from None
    done, planned = len(folder.read_metrics()), config_of(folder).train.epochs
    if config.train.epochs < planned and config.train.epochs <= done and not is_file(folder.summary):
        raise ConfigError(
            f"train.epochs={config.train.epochs}: {folder} has done {done} epochs of {planned} already, "
            f"take more than that"
        )
    return config


def is_finished(folder: RunFolder, config: RunConfig, quiet: bool = False) -> bool:
    """Whether a run has nothing left to do; says so, with the result again, unless quiet."""
    from stockenh.commands.train.result import show_result
    from stockenh.report.terminal import console

    if not is_file(folder.summary):
        return False
    summary = folder.read_summary()
    if not summary["stopped_early"] and summary["epochs"] < config.train.epochs:
        return False
    if quiet:
        return True
    out = console()
    why = "stopped early: validation had not improved" if summary["stopped_early"] else "all epochs done"
    out.print(f"{folder} is finished ({why}); nothing to resume", soft_wrap=True)
    show_result(folder, summary, out)
    return True


def is_resume_key(argument: str) -> bool:
    """Whether this override may be given with resume=RUN."""
    return _is_of_tracker(argument) or (split_override(argument) or ("", ""))[0] in RESUME_KEYS


def _is_of_tracker(argument: str) -> bool:
    return (split_override(argument) or ("", ""))[0].partition(".")[0] == "tracker"


def _resume_overrides(arguments: list[str]) -> dict[str, Any]:
    """The values among the arguments; raises ConfigError where one may not be given on resume."""
    found: dict[str, Any] = {}
    for argument in arguments:
        parts = split_override(argument)
        if parts is None or parts[0] not in ("resume", *RESUME_KEYS):
            name = parts[0] if parts else argument
            raise ConfigError(
                f"{name} can't be given with resume: a run goes on with its own config; only "
                f"{', '.join(RESUME_KEYS)} may change. {suggest(name, RESUME_KEYS)}"
            )
        found[parts[0]] = value_of(argument)
    return found
