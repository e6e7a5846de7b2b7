"""The typed config: every group's YAML names a frozen dataclass, and its values are checked against it.

`RunConfig` is what a composed config means. Below `build.py` nobody sees a config, only the objects.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from stockenh.errors import ConfigError, RunFolderError
from stockenh.overrides import literal, suggest
from stockenh.runfolder import RunFolder
from stockenh.settings import (
    AuditConfig,
    BenchConfig,
    DistillConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    FinderConfig,
    TrainConfig,
    TtaConfig,
)

if TYPE_CHECKING:
    from stockenh.data.augment import Augment
    from stockenh.data.sources import DataSettings
    from stockenh.data.splits import Split
    from stockenh.embedding.base import Embedding
    from stockenh.models.spec import ModelSettings
    from stockenh.training.averaging import Averaging
    from stockenh.training.losses.base import Loss
    from stockenh.training.optimizers import OptimizerSettings
    from stockenh.training.schedule import ScheduleSettings

WEIGHTS = ("raw", "ema", "swa")
# Keys that a command reads off the command line; they are no part of a run.
COMMAND_KEYS = ("resume", "run", "experiment", "sweep", "ablate", "bench")

# What a group's `_target_` must be a kind of. Only classes defined in this package qualify, because a
# run folder's config may come from a stranger and must not be able to name anything else.
GROUPS = {
    "data": "stockenh.data.sources.DataSettings",
    "split": "stockenh.data.splits.Split",
    "embedding": "stockenh.embedding.base.Embedding",
    "model": "stockenh.models.spec.ModelSettings",
    "loss": "stockenh.training.losses.base.Loss",
    "optimizer": "stockenh.training.optimizers.OptimizerSettings",
    "schedule": "stockenh.training.schedule.ScheduleSettings",
    "averaging": "stockenh.training.averaging.Averaging",
    "augment": "stockenh.data.augment.Augment",
}


@dataclass(frozen=True)
class RunConfig:
    """One run: the choices as typed settings, and `raw`, the plain containers that they came from."""

    seed: int
    device: str
    threads: int | None
    cache_dir: str | None
    init_from: str | None
    teacher: str | None
    weights: str | None
    train: TrainConfig
    finder: FinderConfig
    distill: DistillConfig
    tta: TtaConfig
    export: ExportConfig
    explain: ExplainConfig
    audit: AuditConfig
    evaluate: EvaluateConfig
    bench: BenchConfig
    data: DataSettings
    split: Split
    embedding: Embedding
    model: ModelSettings
    loss: Loss
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    averaging: Averaging
    augment: Augment
    raw: dict[str, Any] = field(repr=False)


def parse(raw: Mapping[str, Any]) -> RunConfig:
    """Checks plain containers (as YAML gives them) against the typed settings.

    Settings that a run folder of an earlier version lacks take their defaults.
    Raises ConfigError naming the key, and both keys where two together are wrong.
    """
    known = {f.name for f in dataclasses.fields(RunConfig)} - {"raw"} | set(COMMAND_KEYS)
    for key in raw:
        if key not in known:
            raise ConfigError(f"{key}: no such key. {suggest(key, known)}")
    for key in (*GROUPS, "train", "seed"):
        if key not in raw:
            raise ConfigError(f"{key}: missing from the config")
    run = settings_of("", _Top, {f.name: raw[f.name] for f in dataclasses.fields(_Top) if f.name in raw})
    groups = {name: group_settings(name, raw[name]) for name in GROUPS}
    if groups["embedding"].stored and not groups["data"].brings_embedding:
        raise ConfigError(
            "embedding=stored needs data=windows: other data bring no embedding; take embedding=kernel"
        )
    if groups["embedding"].needs_bars and not groups["data"].brings_bars:
        raise ConfigError(
            "this embedding needs raw bars, and data=windows has none: take embedding=stored or none"
        )
    if groups["augment"].needs_bars and not groups["data"].brings_bars:
        raise ConfigError("augment needs raw bars, and data=windows has none: take augment=none")
    groups["loss"].check(groups["model"])
    return RunConfig(
        seed=run.seed,
        device=run.device,
        threads=run.threads,
        cache_dir=run.cache_dir,
        init_from=run.init_from,
        teacher=run.teacher,
        weights=run.weights,
        train=settings_of("train", TrainConfig, raw["train"]),
        finder=settings_of("finder", FinderConfig, raw.get("finder", {})),
        distill=settings_of("distill", DistillConfig, raw.get("distill", {})),
        tta=_dated("tta", TtaConfig, raw.get("tta", {})),
        export=settings_of("export", ExportConfig, raw.get("export", {})),
        explain=settings_of("explain", ExplainConfig, raw.get("explain", {})),
        audit=settings_of("audit", AuditConfig, raw.get("audit", {})),
        evaluate=_dated("evaluate", EvaluateConfig, raw.get("evaluate", {})),
        bench=settings_of("bench", BenchConfig, raw.get("bench", {})),
        raw={k: v for k, v in raw.items() if k not in COMMAND_KEYS},
        **groups,
    )


def config_of(folder: RunFolder) -> RunConfig:
    """A run's own config, checked as any other. Raises RunFolderError."""
    try:
        return parse(folder.read_config())
    except ConfigError as error:
        raise RunFolderError(f"{folder.config}: {error}") from None


def group_settings(group: str, node: Any) -> Any:
    """The frozen dataclass that a group's YAML describes, its values checked."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{group}: must be a mapping whose _target_ names a class of stockenh")
    cls = _locate(group, node["_target_"], GROUPS[group])
    return settings_of(group, cls, {k: v for k, v in node.items() if k != "_target_"})


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The composed config as plain containers, interpolations resolved."""
    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_say(error, "")) from None
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


@dataclass(frozen=True)
class _Top:
    seed: int = 42
    device: str = "auto"
    threads: int | None = None
    cache_dir: str | None = None
    init_from: str | None = None
    teacher: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed={self.seed} must be from 0 to {2**32 - 1}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads={self.threads} must be at least 1, or null")
        if self.weights not in (None, *WEIGHTS):
            near = suggest(self.weights, [*WEIGHTS, "null"], all_options=True)
            raise ConfigError(f"weights={self.weights}: no such weights. {near}")


def _locate(group: str, target: str, base: str) -> type:
    module, _, name = target.rpartition(".")
    base_module, _, base_name = base.rpartition(".")
    kind: type = getattr(importlib.import_module(base_module), base_name)
    refusal = ConfigError(
        f"{group}._target_={target} is no {base_name} of this package: such a config is not followed"
    )
    if not module.startswith("stockenh."):
        raise refusal
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        raise refusal from None
    if not isinstance(cls, type) or not issubclass(cls, kind) or cls.__module__ != module:
        raise refusal
    if inspect.isabstract(cls) or not dataclasses.is_dataclass(cls):
        raise refusal
    return cls


def settings_of(group: str, cls: type, values: Any) -> Any:
    """An instance of a settings dataclass, its values converted and checked against the field types.

    group: what stands before a key's name in messages. Raises ConfigError.
    """
    prefix = f"{group}." if group else ""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{group}: must be a mapping of settings, not {values!r}")
    names = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            raise ConfigError(f"{prefix}{key}: no such setting of {cls.__name__}. {suggest(str(key), names)}")
        if isinstance(values[key], float) and math.isnan(values[key]):
            raise ConfigError(f"{prefix}{key}=nan is not a number")
    try:
        schema = OmegaConf.structured(cls)
        with flag_override(schema, "readonly", False):
            schema.merge_with(OmegaConf.create(literals(values)))
        return OmegaConf.to_object(schema)
    except OmegaConfBaseException as error:
        raise ConfigError(_say(error, prefix)) from None


def _dated(group: str, cls: type, node: Any) -> Any:
    """A node whose `since` and `until` are `from` and `to`: `from` is no name of a field in Python."""
    if isinstance(node, Mapping):
        for wrong in ("since", "until"):
            if wrong in node:
                raise ConfigError(f"{group}.{wrong}: no such setting. Nearest: {group}.from, {group}.to.")
        fields = {"from": "since", "to": "until"}
        node = {fields.get(key, key): value for key, value in node.items()}
    return settings_of(group, cls, node)


def literals(value: Any) -> Any:
    """Containers whose strings are what they say: composing has resolved every interpolation already."""
    if isinstance(value, Mapping):
        return {k: literals(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [literals(v) for v in value]
    return literal(value) if isinstance(value, str) else value


def _say(error: OmegaConfBaseException, prefix: str) -> str:
    key = f"{prefix}{getattr(error, 'full_key', None) or ''}"
    message = str(getattr(error, "msg", None) or error).splitlines()[0]
    if "Missing mandatory value" in message or "missing" in type(error).__name__.lower():
        return f"{key} must be given: {key}=..."
    message = re.sub(r"\AWhile .*interpolation '.*?': ", "", message)
    if found := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", message):
        return f"{key}={found[1]} is not {_KINDS.get(found[2], found[2])}"
    if found := re.match(r"Value '(.*)' is not a valid bool", message):
        return f"{key}={found[1]} is not {_KINDS['Boolean']}"
    if found := re.match(r"Value '(.*?)' .*is incompatible with type hint 'Union\[.*str\]'", message):
        return f"{key}={found[1]} is neither a number nor a word"
    if "Incompatible value 'None'" in message:
        return f"{key}=null: it must have a value"
    if "is not a ListConfig, list or tuple" in message:
        return f"{key} must be a list: {key}=[...]"
    return f"{key}: {message}"


_KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
