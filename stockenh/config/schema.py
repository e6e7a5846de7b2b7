"""The typed config: what a composed config means, with the constraints of every value.

A root config of conf/ has a dataclass here: `RunConfig` for those that train, a subclass with one more node
for the others. A group's YAML names a frozen dataclass beside the code that it configures. Nothing here
imports torch; only the classes of the chosen options may.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, overload

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from stockenh.config import registry
from stockenh.config.early import skeleton
from stockenh.config.overrides import (
    literal,
    refuse_odd,
    shortened,
    split_override,
    suggest,
    value_of,
)
from stockenh.data import Count, Date, Few, Horizons, Repeats, Seed, Share, ShareOrZero
from stockenh.data.extra import ExtraSettings
from stockenh.errors import ConfigError, RunFolderError
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file, read_yaml

if TYPE_CHECKING:
    from stockenh.data.prices import Augment
    from stockenh.data.sources import DataSettings
    from stockenh.data.splits import Split
    from stockenh.data.targets import Target
    from stockenh.embedding import Embedding
    from stockenh.models import ModelSettings
    from stockenh.report.trackers import TrackerSettings
    from stockenh.training.averaging import Averaging
    from stockenh.training.losses import Loss
    from stockenh.training.optimizers import OptimizerSettings, ScheduleSettings

# What a group's `_target_` must be a subclass of. Only classes of this package and those of plugins that are
# loaded already qualify, because the config of a run folder may come from somebody else and must not be able
# to name anything else.
GROUPS = {
    "tracker": "stockenh.report.trackers.TrackerSettings",  # first: it needs no torch, and a package may lack
    "data": "stockenh.data.sources.DataSettings",
    "split": "stockenh.data.splits.Split",
    "target": "stockenh.data.targets.Target",
    "embedding": "stockenh.embedding.Embedding",
    "model": "stockenh.models.ModelSettings",
    "loss": "stockenh.training.losses.Loss",
    "optimizer": "stockenh.training.optimizers.OptimizerSettings",
    "schedule": "stockenh.training.optimizers.ScheduleSettings",
    "averaging": "stockenh.training.averaging.Averaging",
    "augment": "stockenh.data.prices.Augment",
}
# Groups that runs made before they existed lack: the option that such a run has, and its class.
_ADDED = {
    "target": ("absolute", "stockenh.data.targets.Absolute"),
    "tracker": ("none", "stockenh.report.trackers.NoTracker"),
}
# What a run's config.yaml does not decide: a folder that somebody else made must not say where this machine
# writes or sends anything.
_NOT_KEPT = ("cache_dir", "tracker")
_ADDED_KEYS: dict[str, Any] = {  # likewise keys of a group, with the value that such a run has
    "data.stride": 1,
    **{f"data.extra.{key}": value for key, value in dataclasses.asdict(ExtraSettings()).items()},
}
# Keys that are of one machine, or name other runs: a config that is trained again has them from the command.
OF_MACHINE = ("device", "threads", "cache_dir", "init_from", "teacher", "weights")
# Nodes of a composed config that are not part of a run.
NOT_OF_RUN = ("ledger", "experiment", "sweep", "ablate", "bench")
# Where version 0.1 had the classes that its run folders name.
_MOVED = {
    "stockenh.data.augment.NoAugment": "stockenh.data.prices",
    "stockenh.data.augment.RawNoise": "stockenh.data.prices",
    "stockenh.data.sources.FilesData": "stockenh.data.sources.files",
    "stockenh.data.sources.SampleData": "stockenh.data.sources.files",
    "stockenh.data.sources.SyntheticData": "stockenh.data.sources.synthetic",
    "stockenh.data.sources.WindowsData": "stockenh.data.sources.windows_file",
    "stockenh.data.yahoo.YahooData": "stockenh.data.sources.yahoo",
    "stockenh.embedding.base.NoEmbedding": "stockenh.embedding",
    "stockenh.embedding.base.StoredEmbedding": "stockenh.embedding",
    "stockenh.training.schedule.Constant": "stockenh.training.optimizers",
    "stockenh.training.schedule.OneCycle": "stockenh.training.optimizers",
}
# What version 0.1 kept in every run's config and a run does not need: settings of other commands.
_DROPPED = ("export", "explain", "audit", "evaluate", "bench", "run", "resume")

Positive = Annotated[float, Field(gt=0)]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Part = TypeVar("Part")


@dataclass(frozen=True)
class TrainConfig:
    """How long and in what portions to train."""

    epochs: Count = 6
    batch_size: Count = 256  # windows in a micro batch
    accumulate: Count = 1  # micro batches per optimizer step
    members: Annotated[int, Field(ge=1, le=1000)] = 1  # networks of one run, their seeds in sequence
    batch: Literal["random", "date"] = "random"  # whole days in a micro batch, or any windows
    uniqueness: bool = False  # whether a label weighs less the more it overlaps with others
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    compile: bool = False
    patience: Count = 4  # epochs
    patience_from: Literal["start", "peak"] = "start"  # a run without the key counts as it began
    max_norm: Positive = 1.0
    checkpoint_minutes: Positive = 10.0
    resident: bool | Literal["auto"] = "auto"  # whether all windows lie on the device, or are streamed to it


@dataclass(frozen=True)
class FinderConfig:
    """The learning-rate range test: `find-lr`, and `optimizer.lr=auto` in a run."""

    start_lr: PositiveFinite = 1e-7
    end_lr: PositiveFinite = 1.0
    steps: Annotated[int, Field(ge=10, le=10**6)] = 100  # optimizer steps; fewer give no curve
    seeds: Annotated[int, Field(ge=1, le=100)] = 3  # curves, of other weights, data order and dropout
    smoothing: ShareOrZero = 0.9  # weight of the past in the mean of the loss
    diverge: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 4.0  # times the best mean loss

    def __post_init__(self) -> None:
        if not self.start_lr < self.end_lr:
            raise ConfigError(
                f"finder.start_lr={self.start_lr} and finder.end_lr={self.end_lr}: the rate must rise"
            )


@dataclass(frozen=True)
class TtaConfig:
    """Test-time augmentation: noisy views of a window beside the window itself."""

    views: Annotated[int, Field(ge=0, le=1000)] = 2
    price: Annotated[float, Field(ge=0, le=1)] = 0.002  # relative noise
    volume: Annotated[float, Field(ge=0, le=1)] = 0.05
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.2  # share of the validation forecasts
    precision: Literal["fp32", "bf16"] = "fp32"  # of the views, the window itself among them


@dataclass(frozen=True)
class ForecastConfig(TtaConfig):
    """What is forecast, and by what: `tta.from` and `tta.to` are `since` and `until`."""

    engine: Literal["torch", "onnx", "int8"] = "torch"
    since: Annotated[Date | None, Field(alias="from")] = None
    until: Annotated[Date | None, Field(alias="to")] = None

    def __post_init__(self) -> None:
        if self.precision != "fp32" and self.engine != "torch":
            raise ConfigError(
                f"tta.precision={self.precision} is for tta.engine=torch; exported files have their own"
            )
        _check_order("tta", self.since, self.until)


@dataclass(frozen=True)
class DistillConfig:
    """What a student learns from its teacher besides the labels."""

    temperature: PositiveFinite = 2.0  # softens the teacher's and the student's odds alike
    weight: Annotated[float, Field(ge=0, le=1)] = 0.7  # share of the teacher in the loss


@dataclass(frozen=True)
class ExportConfig:
    """What an export holds besides the ONNX file and the `torch.export` program."""

    int8: bool = False  # also weights of 8 bits, activations quantised as they come


@dataclass(frozen=True)
class ExplainConfig:
    """Which forecasts are explained, and how exactly the integral of their gradients is taken."""

    windows: Count = 256  # evenly spread over the part
    steps: Repeats = 64  # of the integral; doubled for windows that are not within the tolerance
    max_steps: Repeats = 1024
    outputs: Annotated[list[Literal["up", "ret"]], Field(min_length=1)] = field(
        default_factory=lambda: ["up", "ret"]
    )
    horizons: Annotated[Horizons, Field(min_length=1)] | None = None  # bars ahead; None: all of the run's

    def __post_init__(self) -> None:
        if self.steps > self.max_steps:
            raise ConfigError(
                f"explain.steps={self.steps} must be at most explain.max_steps={self.max_steps}"
            )
        for key, given in (("outputs", self.outputs), ("horizons", self.horizons)):
            if given is not None and len(set(given)) < len(given):
                raise ConfigError(f"explain.{key}={list(given)}: name each once")


@dataclass(frozen=True)
class AuditConfig:
    """How hard a leakage audit looks, and from where on a correlation with a label is implausible."""

    dates: Count = 8  # of the test part, and as many before it, after which every bar is replaced
    correlation: Share = 0.3  # of one input with a label
    shuffles: Annotated[int, Field(ge=2, le=1000)] = 4  # trainings of the run's model on shuffled labels
    epochs: Count = 1  # of each training
    windows: Annotated[int, Field(ge=2, le=10**9)] = 4096  # train windows of each, and test windows


@dataclass(frozen=True)
class EvaluateConfig:
    """How a finished run is evaluated: `evaluate.from` and `evaluate.to` are `since` and `until`."""

    block: Count | None = None  # dates in a block of the bootstrap; None: three times the largest horizon
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    quantiles: Annotated[int, Field(ge=2, le=20)] = 5  # of the day's symbols, by the forecast
    cost_bps: Annotated[float, Field(ge=0, lt=10_000)] = 10.0  # of traded value
    execution: Literal["open", "close"] = "open"  # see `data.windows.next_returns`
    horizon: int | None = None  # bars ahead, whose probability the curve trades on; None: the smallest
    since: Annotated[Date | None, Field(alias="from")] = None
    until: Annotated[Date | None, Field(alias="to")] = None

    def __post_init__(self) -> None:
        _check_order("evaluate", self.since, self.until)


@dataclass(frozen=True)
class BenchConfig:
    """What `bench` measures, and for how long."""

    models: list[str] = field(default_factory=lambda: ["timeformer_xl", "timeformer", "student", "tft_xl"])
    parts: list[Literal["result", "training", "techniques", "inference", "pipeline", "memory", "growth"]] = (
        field(default_factory=lambda: ["training", "techniques", "inference", "pipeline", "memory", "growth"])
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = field(default_factory=lambda: [1, 2, 3])  # of result
    minutes: PositiveFinite = 9.0  # for everything; what does not fit is left out and named
    seconds: PositiveFinite = 10.0  # for one comparison of at least three rounds
    rounds: Annotated[int, Field(ge=3, le=10_000)] = 15  # of one comparison at most
    symbols: Annotated[int, Field(ge=1, le=100_000)] = 500  # files that the data pipeline reads
    bars: Annotated[int, Field(ge=200, le=100_000)] = 1258  # of each: five years
    compile: bool = True  # torch.compile among the techniques


def _check_order(node: str, since: str | None, until: str | None) -> None:
    if since is not None and until is not None and since > until:
        raise ConfigError(f"{node}.from={since} lies after {node}.to={until}")


@dataclass(frozen=True, kw_only=True)
class _Common:
    """The keys at the top of a config that are plain values."""

    seed: Seed = 42
    device: str = "auto"
    threads: Few | None = None
    cache_dir: str | None = None
    init_from: str | None = None
    teacher: str | None = None
    weights: Literal["raw", "ema", "swa"] | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Common):
    """One run: the choices of every group and the settings around them."""

    train: TrainConfig = field(default_factory=TrainConfig)
    finder: FinderConfig = field(default_factory=FinderConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    tta: TtaConfig = field(default_factory=TtaConfig)
    data: DataSettings
    split: Split
    target: Target
    embedding: Embedding
    model: ModelSettings
    loss: Loss
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    averaging: Averaging
    augment: Augment
    tracker: TrackerSettings

    @property
    def raw(self) -> dict[str, Any]:
        """See `to_dict`."""
        return to_dict(self)


@dataclass(frozen=True, kw_only=True)
class TtaPredictConfig(RunConfig):
    """A finished run's config, and what `tta-predict` forecasts with it."""

    tta: ForecastConfig = field(default_factory=ForecastConfig)


@dataclass(frozen=True, kw_only=True)
class ExportRunConfig(RunConfig):
    """A finished run's config, and how `export` writes its model."""

    export: ExportConfig = field(default_factory=ExportConfig)


@dataclass(frozen=True, kw_only=True)
class ExplainRunConfig(RunConfig):
    """A finished run's config, and what `explain` explains."""

    explain: ExplainConfig = field(default_factory=ExplainConfig)


@dataclass(frozen=True, kw_only=True)
class AuditRunConfig(RunConfig):
    """A finished run's config, and how hard `audit` looks."""

    audit: AuditConfig = field(default_factory=AuditConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluateRunConfig(RunConfig):
    """A finished run's config, and how `evaluate` evaluates it."""

    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


Kind = TypeVar("Kind", bound=RunConfig)


@overload
def parse(raw: Mapping[str, Any]) -> RunConfig: ...


@overload
def parse(raw: Mapping[str, Any], kind: type[Kind]) -> Kind: ...


def parse(raw: Mapping[str, Any], kind: type[RunConfig] = RunConfig) -> RunConfig:
    """Checks plain containers (as YAML gives them) against the typed config of a command.

    Settings that are missing take their defaults. Raises ConfigError naming the key, and both keys where two
    together are wrong.
    """
    refuse_odd(raw)
    raw = {**{group: {"_target_": cls} for group, (_, cls) in _ADDED.items()}, **raw}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    plain_keys = {f.name for f in dataclasses.fields(_Common)}
    for key in raw:
        if key not in fields and key not in NOT_OF_RUN:
            raise ConfigError(f"{shortened(key)}: no such key. {suggest(shortened(key), fields)}")
    for key in (*GROUPS, "train", "seed"):
        if key not in raw:
            raise ConfigError(f"{key}: missing from the config")
    common = settings_of("", _Common, {key: raw[key] for key in raw if key in plain_keys})
    kinds: dict[str, Any] = {name: f.default_factory for name, f in fields.items()}
    nodes: dict[str, Any] = {
        name: settings_of(name, cls, raw[name])
        for name, cls in kinds.items()
        if name in raw and isinstance(cls, type) and dataclasses.is_dataclass(cls)
    }
    # after what needs no torch, which takes seconds to import
    for name in GROUPS:
        _check_early(name, raw[name])
    groups = {name: group_settings(name, raw[name]) for name in GROUPS}
    _check_together(groups)
    groups["loss"].check_batch(nodes["train"].batch)
    if common.teacher is not None and nodes["train"].members > 1:
        raise ConfigError(
            f"train.members={nodes['train'].members} teacher={common.teacher}: a student is one network; "
            f"leave train.members out"
        )
    return kind(**vars(common), **groups, **nodes)


def check_values(arguments: Sequence[str], kind: type[RunConfig], **others: type) -> None:
    """Raises ConfigError for a wrong value among overrides, before anything imports torch.

    Looks at keys that are plain values, and at those one level below a node of settings: `seed`,
    `tta.views`. kind: the command's config; others: nodes that are not in it.
    """
    nodes: dict[str, Any] = {f.name: f.default_factory for f in dataclasses.fields(kind)}
    kinds = {name: cls for name, cls in {**nodes, **others}.items()
             if isinstance(cls, type) and dataclasses.is_dataclass(cls)}  # fmt: skip
    plain_keys = {f.name for f in dataclasses.fields(_Common)}
    given: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        key, value = split_override(argument) or ("", "")
        head, _, rest = key.partition(".")
        # several values are a sweep, and an interpolation is known only when it is composed
        if "${" in value or ("," in value and not value.startswith("[")):
            continue
        if head in kinds and rest in setting_names(kinds[head]):
            given.setdefault(head, {})[rest] = value_of(argument)
        elif key in plain_keys:
            given.setdefault("", {})[key] = value_of(argument)
    for head, values in given.items():
        cls: Any = kinds[head] if head else _Common
        # without what the class checks of several values together: the others are not known yet
        settings_of(head, skeleton(cls.__module__, cls.__name__) or cls, values)


def _check_together(groups: Mapping[str, Any]) -> None:
    data, embedding = groups["data"], groups["embedding"]
    if embedding.stored and not data.brings_embedding:
        raise ConfigError(
            "embedding=stored needs data=windows: other data bring no embedding; take embedding=kernel"
        )
    if embedding.needs_bars and not data.brings_bars:
        raise ConfigError(
            "this embedding needs raw bars, and data=windows has none: take embedding=stored or none"
        )
    if groups["augment"].needs_bars and not data.brings_bars:
        raise ConfigError("augment needs raw bars, and data=windows has none: take augment=none")
    groups["target"].check(data)
    groups["loss"].check(groups["model"])


def config_from(path: Path) -> dict[str, Any]:
    """The groups and nodes that a YAML file holds of a run's config, all checked, as plain containers.

    Such a file is a sweep's best.yaml or a run's config.yaml, and may be untrusted: a group's settings are
    those of a class of this package, and nothing else in it is followed. Raises ConfigError.
    """
    try:
        raw = read_yaml(path)
        if not isinstance(raw, dict) or not raw:
            raise ConfigError("it holds no config")
        if "defaults" in raw:
            raise ConfigError("it is of version 0.1: stockenh sweep resume=DIR writes its best.yaml anew")
        raw = upgraded(raw)
        named = {key: raw.pop(key) for key in OF_MACHINE if key in raw}
        if others := [f"{k}={named[k]}" for k in ("init_from", "teacher", "weights") if named.get(k)]:
            raise ConfigError(f"it has {', '.join(others)}: name it on the command line, the file without it")
        kinds = {f.name: f.default_factory for f in dataclasses.fields(RunConfig)}
        found: dict[str, Any] = {}
        for key, node in raw.items():
            kind = kinds.get(key)
            if key in GROUPS:
                found[key] = _with_target(group_settings(key, node))
            elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
                found[key] = _dumped(settings_of(key, kind, node))
            elif key == "seed":
                found[key] = settings_of("", _Common, {key: node}).seed
            else:
                raise ConfigError(f"{key}: no key of a run's config. {suggest(key, kinds)}")
        return found
    except FileNotFoundError:
        raise ConfigError(f"run_config={path}: no such file; name a sweep's best.yaml") from None
    except (ConfigError, RunFolderError) as error:
        raise ConfigError(f"run_config={path}: {error}") from None


def config_of(folder: RunFolder) -> RunConfig:
    """A run's own config, checked as any other; those of version 0.1 included. Raises RunFolderError.

    Where it cached and which tracker it had is left out, see `_NOT_KEPT`.
    """
    try:
        config = parse(upgraded(folder.read_config()), RunConfig)
    except ConfigError as error:
        raise RunFolderError(f"{folder.config}: {error}") from None
    if (plugins := plugins_of(config)) and is_file(folder.manifest):
        for line in registry.changed(plugins, folder.read_manifest().get("plugins") or ()):
            registry.warn(f"{folder.path.absolute()}: {line}")
    return config


def plugins_of(config: RunConfig) -> list[registry.Plugin]:
    """The plugins that settings of a config come from."""
    return registry.used(type(getattr(config, group)) for group in GROUPS)


def upgraded(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without what version 0.1 kept of other commands."""
    kept = {key: node for key, node in raw.items() if key not in (*_DROPPED, *_NOT_KEPT)}
    if isinstance(kept.get("tta"), Mapping):
        kept["tta"] = {k: v for k, v in kept["tta"].items() if k not in ("engine", "from", "to")}
    if isinstance(kept.get("loss"), Mapping):
        kept["loss"] = {k: v for k, v in kept["loss"].items() if (k, v) != ("alphas", None)}
    return kept


def is_default(key: str, value: Any) -> bool:
    """Whether a dotted key such as `finder.steps` has its default, or a group what earlier versions had."""
    if key in _ADDED:
        return bool(value == _ADDED[key][0])
    if key in _ADDED_KEYS:
        return bool(value == _ADDED_KEYS[key])
    node, _, leaf = key.partition(".")
    kind = {f.name: f.default_factory for f in dataclasses.fields(RunConfig)}.get(node)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return False
    return hasattr(kind(), leaf) and bool(getattr(kind(), leaf) == value)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The inverse of `parse`: plain containers, as config.yaml of a run folder holds them.

    Without the tracker, whose address may hold a password.
    """
    found: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name == "tracker":
            continue
        if f.name in GROUPS:
            found[f.name] = _with_target(value)
        else:
            found[f.name] = _dumped(value) if dataclasses.is_dataclass(value) else value
    return found


def _with_target(settings: Any) -> dict[str, Any]:
    cls = type(settings)
    option = registry.option_of(cls)
    target = option.target if option is not None else f"{cls.__module__}.{cls.__qualname__}"
    return {"_target_": target, **_dumped(settings)}


def _dumped(settings: Any) -> dict[str, Any]:
    """mode: with lists in place of tuples, which YAML doesn't know."""
    kind: Any = type(settings)
    found: dict[str, Any] = _adapter(kind).dump_python(settings, mode="json", by_alias=True)
    return found


def group_settings(group: str, node: Any) -> Any:
    """The frozen dataclass that a group's YAML describes, its values checked."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{group}: must be a mapping whose _target_ names a class of stockenh")
    target = node["_target_"]
    cls = registry.class_of(group, target) if ":" in target else _locate(group, target, GROUPS[group])
    return settings_of(group, cls, {k: v for k, v in node.items() if k != "_target_"})


def _check_early(group: str, node: Any) -> None:
    """Raises ConfigError for a value of a wrong type or beyond its bounds, without importing torch."""
    if isinstance(node, Mapping) and isinstance(target := node.get("_target_"), str):
        module, _, name = target.rpartition(".")
        # only of the group's own package, as in `_locate`
        if module.startswith(".".join(GROUPS[group].split(".")[:2])) and (cls := skeleton(module, name)):
            settings_of(group, cls, {k: v for k, v in node.items() if k != "_target_" and v != "???"})


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The composed config as plain containers, interpolations resolved."""
    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        message = str(getattr(error, "msg", None) or error).splitlines()[0]
        if "missing" in message.lower():
            raise ConfigError(f"{key} must be given: {key}=...") from None
        raise ConfigError(re.sub(r"\AWhile .*interpolation '.*?': ", "", f"{key}: {message}")) from None
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def _locate(group: str, target: str, base: str) -> type:
    module, _, name = target.rpartition(".")
    module = _MOVED.get(target, module)
    base_module, _, base_name = base.rpartition(".")
    kind: type = getattr(importlib.import_module(base_module), base_name)
    refusal = ConfigError(f"{group}._target_={shortened(target)} is no {base_name} of this package: refused")
    # a group's classes lie in its own package, whose modules do nothing when they are imported
    if not f"{module}.".startswith(".".join(base_module.split(".")[:2]) + "."):
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


def settings_of(group: str, cls: type[Part], values: Any) -> Part:
    """An instance of a settings dataclass, its values converted and checked against the field types.

    group: what stands before a key's name in messages. Raises ConfigError.
    """
    prefix = f"{group}." if group else ""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{group}: must be a mapping of settings, not {shortened(values)}")
    refuse_odd(values, group)
    kind: Any = cls  # mypy takes a type[Part] for something that can't be hashed
    names = setting_names(kind)
    for key, value in values.items():
        if key not in names:
            near = suggest(shortened(key), names)
            raise ConfigError(f"{prefix}{shortened(key)}: no such setting of {cls.__name__}. {near}")
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{prefix}{key}=nan is not a number")
    try:
        settings: Part = _adapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(_message(error, prefix)) from None
    for key, value in values.items():
        # pydantic takes true for 1
        if isinstance(value, bool) and type(taken := getattr(settings, key, value)) in (int, float):
            raise ConfigError(f"{prefix}{key}={value} is not {_KINDS[f'{type(taken).__name__}_type']}")
    return settings


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    if "__pydantic_config__" not in vars(cls):
        with_config(ConfigDict(coerce_numbers_to_str=True))(cls)
    return TypeAdapter(cls)


@cache
def setting_names(cls: Any) -> list[str]:
    """The keys of a settings dataclass as a config spells them: `from` where the field is `since`."""
    no_settings = {f.name for f in dataclasses.fields(cls) if not f.init}
    properties = _adapter(cls).json_schema(by_alias=True).get("properties", ())
    return [key for key in properties if key not in no_settings]


def literals(value: Any) -> Any:
    """Containers with `${` escaped in their strings: composing has resolved every interpolation already."""
    if isinstance(value, Mapping):
        return {k: literals(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [literals(v) for v in value]
    return literal(value) if isinstance(value, str) else value


_KINDS = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "finite",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


def _number(bound: float) -> str:
    return f"{bound:g}" if bound < 10**6 else f"{bound}"


def _message(error: ValidationError, prefix: str) -> str:
    """One line for the first of pydantic's errors: the key, its value and what it must be."""
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if isinstance(part, int) or re.fullmatch(r"[a-z]\w*", part)]
    names = [part for part in path if part not in ("bool", "int", "float", "str", "constrained-str")]
    key = prefix + ".".join(str(part) for part in names if not isinstance(part, int))
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    value = None if value is None else shortened(value)
    if not names and kind in ("value_error", "assertion_error"):  # of what must hold between settings
        why = str(context["error"]) or "these settings don't fit together"
        return f"{prefix.rstrip('.')}: {why}"
    if kind == "missing":
        return f"{key} must be given: {key}=..."
    if value is None:
        return f"{key}=null: it must have a value"
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"])
        return f"{key}={value}: no such {names[0]}. {suggest(value, options, all_options=True)}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{key}={value} must be {words} {_number(context[bound])}"
    if kind in _KINDS:
        others = [e["ctx"]["expected"] for e in error.errors() if e["type"] == "literal_error"]
        return " or ".join([f"{key}={value} is not {_KINDS[kind]}", *others])
    if kind in ("list_type", "tuple_type"):
        example = value if isinstance(value, int | float | str) and not isinstance(value, bool) else "..."
        return f"{key} must be a list: {key}=[{example}]"
    if kind == "too_long":
        return f"{key}: {context['actual_length']} values, at most {context['max_length']} are possible"
    if kind == "too_short":
        return f"{key}={value}: name one or more"
    if kind == "value_error":
        return f"{key}={value} {context['error']}"
    return f"{key}={value}: {first['msg']}"
