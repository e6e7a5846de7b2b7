"""The folder of a multirun: the command that started it, and what it records besides its runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from stockenh.commands.multirun import stops
from stockenh.config import registry
from stockenh.config.overrides import split_override
from stockenh.config.schema import is_default
from stockenh.errors import ConfigError, RunFolderError
from stockenh.report.terminal import program
from stockenh.storage.files import remove_parts, write_atomic, write_json
from stockenh.storage.untrusted import is_file, read_json

WORKERS = "workers"  # locks and output of workers
CONFIG_DIR = "--config-dir="
# What Hydra is given anew each time that the folder is resumed.
OF_ONE_CALL = ("hydra.sweep.dir", "hydra.mode")
OF_MANY = ("hydra", "sweep", "ablate")  # nodes of a composed config that no single run has

# Settings that change nothing of what a run finds.
IMMATERIAL = (
    "device", "threads", "cache_dir", "tta.", "export.", "explain.", "train.checkpoint_minutes",
    "train.resident", "tracker",
)  # fmt: skip
SHOWN = 4  # differences in a message


@dataclass(frozen=True)
class MultirunFolder:
    """Names of the files of one multirun.

    noun: what it is called; command: of stockenh, which makes and resumes it; file: by which it is known;
    written: the type of that file's content
    """

    path: Path

    noun: ClassVar[str]
    command: ClassVar[str]
    file: ClassVar[str]
    written: ClassVar[Any]

    @property
    def about(self) -> Path:
        """The command that started it, and what the multirun must remember."""
        return self.path / self.file

    @property
    def workers(self) -> Path:
        return self.path / WORKERS

    def read(self) -> dict[str, Any]:
        """What is recorded of the multirun. Raises RunFolderError where this is no folder of its kind."""
        try:
            return read_json(self.about, self.written)
        except FileNotFoundError:
            raise RunFolderError(
                f"{self.path} holds no {self.noun} (no {self.file}); its folder is what stockenh "
                f"{self.command} left in outputs/"
            ) from None

    def write(self, about: Mapping[str, Any]) -> None:
        write_json(self.about, about)

    def begin(self, config: DictConfig, more: Mapping[str, Any]) -> None:
        """Records how to resume it, and `more` besides what the folder keeps already.

        What killed commands left half-written goes, and the file that stops workers; a writer that lives
        keeps its own.
        """
        remove_parts(self.path)
        stops.withdraw(self.path)
        self.workers.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "multirun.yaml", OmegaConf.to_yaml(config).encode())
        before = self.read() if is_file(self.about) else {}
        made_with = before.get("plugins") or plugins_of(config)
        self.write({**before, "arguments": kept_arguments(config), "plugins": made_with, **more})

    def resume_command(self, flags: Sequence[str] = ()) -> str:
        """The command that resumes it; flags: those that it was started with, which must be given again."""
        words = [f"resume={shlex.quote(str(self.path))}", *map(shlex.quote, flags)]
        return f"{program()} {self.command} {' '.join(words)}"


def parts_of(argument: str) -> tuple[str, str]:
    """The key and the value of an override; empty for a flag."""
    return split_override(argument) or ("", "")


def parsed(context: HydraContext, arguments: Sequence[str]) -> Iterator[tuple[str, Override]]:
    """Every override beside what Hydra's grammar makes of it."""
    parser = OverridesParser.create(config_loader=context.config_loader)
    return zip(arguments, parser.parse_overrides(list(arguments)), strict=True)


def of_one_run(composed: DictConfig) -> DictConfig:
    """A composed config without the nodes of Hydra and of the commands that make many runs."""
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in OF_MANY])


def config_dirs(config: DictConfig) -> list[str]:
    """The flag by which a command named a folder of the user's own options, which is no override."""
    sources = config.hydra.runtime.config_sources
    return [f"{CONFIG_DIR}{source.path}" for source in sources if source.provider == "command-line"]


def plugins_of(config: DictConfig) -> list[dict[str, Any]]:
    """What a folder keeps of the plugins that the groups of a multirun come from, or may come from."""
    targets = {node.get("_target_") for node in config.values() if isinstance(node, DictConfig)}
    options = [o for o in registry.OPTIONS.values() if o.plugin.flag is not None or o.target in targets]
    return [plugin.to_dict() for plugin in dict.fromkeys(option.plugin for option in options)]


def require_plugins(folder: Path, recorded: Sequence[Mapping[str, Any]]) -> None:
    """Raises ConfigError with the plugin that a resumed multirun lacks; warns of one that has changed."""
    loaded = {option.plugin.name: option.plugin for option in registry.OPTIONS.values()}
    for entry in recorded:
        if entry["name"] not in loaded:
            raise ConfigError(f"{folder} was made with {registry.missing(entry['name'])}")
    for line in registry.changed(loaded.values(), recorded):
        registry.warn(f"{folder}: {line}")


def kept_arguments(config: DictConfig) -> list[str]:
    """The flags and overrides that this multirun was started with, all that its folder must keep."""
    overrides = config.hydra.overrides
    given = [str(a) for a in (*overrides.hydra, *overrides.task)]
    return [*config_dirs(config), *(a for a in given if parts_of(a)[0] not in OF_ONE_CALL)]


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], as_text: Callable[[Any], str] = str
) -> str:
    """`(optimizer.lr: 0.0001, was 0.001; ...)` of the dotted keys that differ; else empty.

    A key that an earlier version did not have differs only where it is not its default.
    """
    now = {key: value for key, value in now.items() if key in before or not is_default(key, value)}

    def value(values: Mapping[str, Any], key: str) -> str:
        return as_text(values[key]) if key in values else "nothing"

    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    found = [f"{key}: {value(now, key)}, was {value(before, key)}" for key in keys[:SHOWN]]
    if len(keys) > SHOWN:
        found.append(f"and {len(keys) - SHOWN} more")
    return f"({'; '.join(found)})" if found else ""
