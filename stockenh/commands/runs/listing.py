"""Run folders found and read for a listing: what each was, how far it came, what it scored.

A folder may be untrusted, half written or damaged. Only its config.yaml, summary.json and metrics.jsonl
are read, as plain data; whatever is wrong becomes the run's state, and nothing is raised.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stockenh.config import registry
from stockenh.config.catalog import groups, option_values
from stockenh.config.overrides import suggest
from stockenh.errors import ConfigError, RunFolderError
from stockenh.storage.files import LOCK, is_locked
from stockenh.storage.run_folder import RunFolder

LARGEST_BYTES = 64 * 2**20  # of a file that is read: no run's comes near it
DEEPEST, MOST_KEYS, MOST_ITEMS = 8, 2000, 50  # of a config that is shown
FILES = ("config.yaml", "summary.json", "metrics.jsonl")
INSIDE = ("checkpoints", "weights", "report", ".hydra")  # what a run folder holds besides other runs
# What commands leave that make no run: forecasts, range tests, exports, explanations, audits, evaluations,
# the costs that an ablation measures, track records and benchmarks.
OF_OTHERS = {"forecast.parquet", "lr_finder.json", "parity.png", "explain.json", "audit.json",
             "evaluation.json", "cell.json", "track.json", "bench.json"}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run folder in figures.

    state:  "finished", "interrupted at epoch 3", "running, epoch 3", "never began", "damaged: ..."
    config: dotted keys to values; a group itself is shown as its option: {"loss": "focal", "loss.gamma": 2.0}
    epochs, planned: completed and configured; val_loss: of the chosen weights, or the best so far
    scores: part -> horizon -> figure -> number, from summary.json
    figures: the other numbers and words of summary.json
    """

    path: Path
    state: str
    written: float
    config: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    epochs: int | None = None
    planned: int | None = None
    val_loss: float | None = None
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


def find(root: Path) -> list[Path]:
    """Every run folder at or below `root`, those within sweeps included."""
    found = []
    for folder, inner, files in os.walk(root):
        other = "config.yaml" not in files and not OF_OTHERS.isdisjoint(files)
        if not other and (".hydra" in inner or not set(FILES).isdisjoint(files)):
            found.append(Path(folder))
        inner[:] = [name for name in inner if name not in INSIDE and not name.startswith(".")]
    return found


def is_run(folder: Path) -> bool:
    """Whether the folder itself, and not only one below it, holds a run."""
    return any((folder / name).exists() for name in (*FILES, ".hydra"))


def read(path: Path) -> Run:
    """One run folder; never raises on what is in it."""
    folder = RunFolder(path)
    written = max(map(_modified, (folder.config, folder.summary, folder.metrics, path)))
    try:
        config = folder.read_config() if _is_there(folder.config) else {}
        summary: Any = folder.read_json(folder.summary) if _is_there(folder.summary) else None
        history = folder.metric_lines() if _is_there(folder.metrics) else []
    except (RunFolderError, OSError) as error:
        return Run(path, f"damaged: {str(error).removeprefix(f'{path}/')}", written)
    except RecursionError:
        return Run(path, "damaged: nested too deeply to be a run's", written)
    if not config:
        began = summary is not None or history
        return Run(path, "damaged: config.yaml is missing" if began else "never began", written)
    if summary is not None and not isinstance(_get(summary, "parts"), Mapping):
        return Run(path, "damaged: summary.json is not a run's", written, flatten(config))
    epochs = max((e for line in history if (e := _whole(line.get("epoch"))) is not None), default=0)
    planned = _whole(_get(config, "train", "epochs"))
    done = _whole(_get(summary, "epochs"))
    early = _get(summary, "stopped_early") is True
    finished = summary is not None and (early or done is None or planned is None or done >= planned)
    figures: Mapping[str, Any] = summary if finished and isinstance(summary, Mapping) else {}
    losses = [loss for line in history if (loss := _number(line.get("val_loss"))) is not None]
    weights = _get(figures, "weights")
    return Run(
        path=path,
        state=_state(folder, finished, early, epochs, _whole(_get(config, "train", "members")) or 1),
        written=written,
        config=flatten(config),
        weights=weights if isinstance(weights, str) else None,
        epochs=done if finished and done is not None else epochs,
        planned=planned,
        val_loss=_number(figures.get("val_loss")) if finished else min(losses, default=None),
        scores=_scores(figures.get("parts")),
        figures={k: v for k, v in figures.items() if isinstance(v, str | int | float)},
    )


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to values. Groups come first by the name of their option, see `option_of`."""
    keys: dict[str, Any] = {
        name: option_of(name, node)
        for name, node in config.items()
        if isinstance(node, Mapping) and "_target_" in node
    }
    _descend(config, "", keys, DEEPEST)
    return keys


def option_of(group: str, node: Mapping[str, Any]) -> str:
    """The option of a group that these settings are, `name*` where a value was changed.

    Options of one class differ by their values; a class that no option names is shown by its own name.
    """
    target = node.get("_target_")
    nearest, agreed, all_agree = "", -1, False
    for option, shipped in _options(tuple(registry.OPTIONS)).get(group, {}).items():
        if shipped.get("_target_") != target:
            continue
        values = {k: v for k, v in shipped.items() if not k.startswith("_") and v != "???"}
        equal = sum(_same(node.get(key), value) for key, value in values.items())
        if equal > agreed:
            nearest, agreed, all_agree = option, equal, equal == len(values)
    if not nearest:  # of a plugin that is not loaded, or an earlier version's
        return str(target).rpartition(":" if ":" in str(target) else ".")[2]
    return nearest if all_agree else f"{nearest}*"


def matching(runs: Iterable[Run], wanted: Mapping[str, str]) -> list[Run]:
    """The runs whose config has these values, given as text; a changed option (`focal*`) is still `focal`.

    Raises ConfigError where no run has such a key.
    """
    runs = list(runs)
    for key in wanted:
        known = {name for run in runs for name in run.config}
        if known and key not in known:
            raise ConfigError(f"{key}: no run here has such a key. {suggest(key, known)}")
    return [
        run
        for run in runs
        if all(key in run.config and _matches(run.config[key], value) for key, value in wanted.items())
    ]


def differing(runs: Iterable[Run]) -> dict[str, list[Any]]:
    """The config keys whose values are not the same in all runs, with the value of each."""
    runs = list(runs)
    configs = [run.config for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    columns = {key: [config.get(key, "-") for config in configs] for key in keys}
    different = [key for key, values in columns.items() if any(not _same(v, values[0]) for v in values)]
    return {key: [run.config.get(key, "-") for run in runs] for key in different}


def _state(folder: RunFolder, finished: bool, early: bool, epochs: int, members: int) -> str:
    is_running = is_locked(folder.path / LOCK)
    if members > 1 and (is_running or not finished):
        done = len(list(folder.path.glob("members/*/summary.json")))
        return f"{'running' if is_running else 'interrupted'}, {done} of {members} members done"
    if is_running:
        return f"running, epoch {epochs + 1}"
    if finished:
        return "finished early" if early else "finished"
    if not epochs and not folder.last.exists():
        return "never began"
    return f"interrupted at epoch {epochs + 1}"


def _is_there(path: Path) -> bool:
    """Whether there is such a file. Raises RunFolderError where no run writes such a one."""
    if not path.exists():
        return False
    if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
        raise RunFolderError(f"{path} is not the file of a run")
    return True


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _scores(parts: Any) -> dict[str, dict[str, dict[str, float]]]:
    """What of `parts` is as a run writes it; the rest is left out."""
    return {
        part: {
            horizon: {k: number for k, v in scores.items() if (number := _number(v)) is not None}
            for horizon, scores in of_part.items()
            if isinstance(scores, Mapping)
        }
        for part, of_part in (parts.items() if isinstance(parts, Mapping) else ())
        if isinstance(of_part, Mapping)
    }


def _descend(node: Mapping[str, Any], prefix: str, keys: dict[str, Any], depth: int) -> None:
    for key, value in node.items():
        if len(keys) >= MOST_KEYS:
            return
        if isinstance(value, Mapping) and value and depth:
            _descend(value, f"{prefix}{key}.", keys, depth - 1)
        elif key != "_target_":
            keys[f"{prefix}{key}"] = _bounded(value)


def _bounded(value: Any) -> Any:
    """A scalar or a short list of scalars: with aliases, a few lines of YAML could be gigabytes in print."""
    if isinstance(value, list | tuple):
        return [_bounded(v) if not isinstance(v, list | dict) else "..." for v in value[:MOST_ITEMS]]
    if isinstance(value, Mapping | set) and value:
        return "..."
    if isinstance(value, int) and abs(value) > 2**63:
        return "a huge number"
    return value


def _get(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _matches(value: Any, text: str) -> bool:
    try:
        wanted = yaml.safe_load(text)
    except yaml.YAMLError:
        wanted = text
    return _same(value, wanted) or str(value).removesuffix("*") == text


def _same(one: Any, other: Any) -> bool:
    """Equality of config values; YAML reads 1e-3 as text, and it is the number."""
    return bool(one == other) or (_as_number(one) is not None and _as_number(one) == _as_number(other))


def _as_number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return _number(float(value))
        except ValueError:
            return None
    return _number(value)


@cache
def _options(of_plugins: tuple[tuple[str, str], ...]) -> dict[str, dict[str, dict[str, Any]]]:
    """Group -> option -> the settings that its YAML gives; of_plugins: those that are loaded now."""
    return {
        group: {option: option_values(group, option) for option in options}
        for group, options in groups().items()
        if group not in ("ablate", "bench", "experiment", "sweep")
    }
