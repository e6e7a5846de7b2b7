"""The nodes of the config that are no choice of a group: numbers with their units, and what they must be."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from stockenh.config.overrides import literal, suggest
from stockenh.errors import ConfigError, RunFolderError
from stockenh.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from stockenh.data.prices import Augment
    from stockenh.data.sources.base import DataSettings
    from stockenh.data.splits import Split
    from stockenh.embedding.base import Embedding
    from stockenh.models.spec import ModelSettings
    from stockenh.training.averaging import Averaging
    from stockenh.training.losses.base import Loss
    from stockenh.training.optimizers import OptimizerSettings
    from stockenh.training.schedules import ScheduleSettings


AUTO = "auto"
ENGINES = ("torch", "onnx", "int8")
EXPLAINED = ("up", "ret")
MEASURED = ("training", "techniques", "inference", "pipeline", "memory", "growth")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
VIEW_PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """How long and in what portions to train."""

    epochs: int = 20
    batch_size: int = 64  # windows in a micro batch
    accumulate: int = 1  # micro batches per optimizer step
    precision: str = "fp32"
    compile: bool = False
    patience: int = 10  # epochs
    max_norm: float = 1.0
    checkpoint_minutes: float = 10.0
    resident: bool | str = AUTO  # whether all windows lie on the device, or are streamed to it

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be at least 1")
        for name in ("max_norm", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be above 0")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"train.precision={self.precision}: {suggest(self.precision, PRECISIONS, all_options=True)}"
            )
        if self.resident not in (True, False, AUTO):
            raise ConfigError(f"train.resident={self.resident}: take auto, true or false")


@dataclass(frozen=True)
class FinderConfig:
    """The learning-rate range test: `find-lr`, and `optimizer.lr=auto` in a run."""

    start_lr: float = 1e-7
    end_lr: float = 1.0
    steps: int = 100  # optimizer steps
    smoothing: float = 0.9  # weight of the past in the exponential mean of the loss
    diverge: float = 4.0  # ends where that mean is so many times its best

    def __post_init__(self) -> None:
        if not 0 < self.start_lr < self.end_lr < math.inf:
            raise ConfigError(
                f"finder.start_lr={self.start_lr} and finder.end_lr={self.end_lr}: the rate must rise from "
                f"above 0 to something finite"
            )
        if self.steps < 10:
            raise ConfigError(f"finder.steps={self.steps} must be at least 10: fewer draw no curve")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"finder.smoothing={self.smoothing} must be from 0 to below 1")
        if not 1 < self.diverge < math.inf:
            raise ConfigError(f"finder.diverge={self.diverge} must be above 1 and finite")


@dataclass(frozen=True)
class TtaConfig:
    """Test-time augmentation, and what is forecast: `tta.from` and `tta.to` are `since` and `until`."""

    views: int = 4  # besides the window itself
    price: float = 0.002
    volume: float = 0.05
    coverage: float = 0.2  # share of the validation forecasts that count as confident
    engine: str = "torch"
    precision: str = "fp32"  # of the views, the window itself among them
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        if self.views < 0:
            raise ConfigError(
                f"tta.views={self.views} must be 0 or more: it counts the views besides the window itself"
            )
        for name in ("price", "volume"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"tta.{name}={getattr(self, name)} must be relative noise from 0 to 1")
        if not 0 < self.coverage <= 1:
            raise ConfigError(f"tta.coverage={self.coverage} must be a share above 0 and at most 1")
        if self.engine not in ENGINES:
            raise ConfigError(f"tta.engine={self.engine}: {suggest(self.engine, ENGINES, all_options=True)}")
        if self.precision not in VIEW_PRECISIONS:
            options = suggest(self.precision, VIEW_PRECISIONS, all_options=True)
            raise ConfigError(f"tta.precision={self.precision}: {options}")
        if self.precision != "fp32" and self.engine != "torch":
            raise ConfigError(
                f"tta.precision={self.precision} is for tta.engine=torch; exported files have their own"
            )
        _check_dates("tta", self.since, self.until)


@dataclass(frozen=True)
class DistillConfig:
    """What a student learns from its teacher besides the labels."""

    temperature: float = 2.0  # softens the teacher's and the student's odds alike
    weight: float = 0.7  # share of the teacher in the loss; the labels have the rest

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"distill.temperature={self.temperature} must be above 0 and finite")
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"distill.weight={self.weight} must be a share from 0 to 1")


@dataclass(frozen=True)
class ExportConfig:
    """What an export holds besides the ONNX file and the `torch.export` program."""

    int8: bool = False  # also weights of 8 bits, activations quantised as they come


@dataclass(frozen=True)
class ExplainConfig:
    """Which forecasts are explained, and how exactly the integral of their gradients is taken."""

    windows: int = 256  # evenly spread over the part
    steps: int = 64  # of the integral; doubled for windows that are not within the tolerance
    max_steps: int = 1024
    outputs: list[str] = field(default_factory=lambda: list(EXPLAINED))
    horizons: list[int] | None = None  # bars ahead; None: all of the run's

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise ConfigError(
                f"explain.windows={self.windows} must be at least 1: it counts the windows to explain"
            )
        if not 1 <= self.steps <= self.max_steps:
            raise ConfigError(
                f"explain.steps={self.steps} must be from 1 to explain.max_steps={self.max_steps}"
            )
        for key, given in (("outputs", self.outputs), ("horizons", self.horizons)):
            if given is not None and (not given or len(set(given)) < len(given)):
                raise ConfigError(f"explain.{key}={list(given)}: name one or more, each once")
        for output in self.outputs:
            if output not in EXPLAINED:
                raise ConfigError(
                    f"explain.outputs={list(self.outputs)}: {suggest(output, EXPLAINED, all_options=True)}"
                )


@dataclass(frozen=True)
class AuditConfig:
    """How hard a leakage audit looks, and from where on a correlation with a label is implausible."""

    dates: int = 8  # of the test part, and as many before it, after which every bar is replaced
    correlation: float = 0.3  # of one input with a label; the sampling error comes to it
    shuffles: int = 4  # trainings of the run's model on shuffled labels
    epochs: int = 1  # of each
    windows: int = 4096  # train windows of each, and test windows that it is asked

    def __post_init__(self) -> None:
        for name, least in (("dates", 1), ("shuffles", 2), ("epochs", 1), ("windows", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"audit.{name}={getattr(self, name)} must be at least {least}")
        if not 0 < self.correlation < 1:
            raise ConfigError(f"audit.correlation={self.correlation} must be above 0 and below 1")


@dataclass(frozen=True)
class EvaluateConfig:
    """How a finished run is judged: `evaluate.from` and `evaluate.to` are `since` and `until`."""

    block: int | None = None  # dates in a block of the bootstrap; None: twice the largest horizon
    resamples: int = 1000
    cost_bps: float = 10.0  # of traded value
    horizon: int | None = None  # bars ahead, whose probability the curve trades on; None: the smallest
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        if self.block is not None and self.block < 1:
            raise ConfigError(f"evaluate.block={self.block} must be at least 1 date, or null")
        if self.resamples < 100:
            raise ConfigError(f"evaluate.resamples={self.resamples} must be at least 100: fewer have no ends")
        if not 0 <= self.cost_bps < 10_000:
            raise ConfigError(f"evaluate.cost_bps={self.cost_bps} must be basis points from 0 to below 10000")
        _check_dates("evaluate", self.since, self.until)


def _check_dates(node: str, since: str | None, until: str | None) -> None:
    for key, value in (("from", since), ("to", until)):
        if value is not None and not _is_date(value):
            raise ConfigError(f"{node}.{key}={value} is not a date: write 2024-01-31")
    if since is not None and until is not None and since > until:
        raise ConfigError(f"{node}.from={since} lies after {node}.to={until}")


@dataclass(frozen=True)
class BenchConfig:
    """What `bench` measures, and for how long."""

    models: list[str] = field(default_factory=lambda: ["timeformer_xl", "timeformer", "student", "tft_xl"])
    parts: list[str] = field(default_factory=lambda: list(MEASURED))
    minutes: float = 9.0  # for everything; what does not fit is left out and named
    seconds: float = 10.0  # for one comparison; three rounds are made unless that takes thrice as long
    rounds: int = 15  # of one comparison at most
    symbols: int = 500  # files that the data pipeline reads
    compile: bool = True  # torch.compile among the techniques

    def __post_init__(self) -> None:
        for name in ("minutes", "seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"bench.{name}={getattr(self, name)} must be above 0 and finite")
        for name, least in (("rounds", 3), ("symbols", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"bench.{name}={getattr(self, name)} must be at least {least}")
        for part in self.parts:
            if part not in MEASURED:
                raise ConfigError(
                    f"bench.parts={list(self.parts)}: {suggest(part, MEASURED, all_options=True)}"
                )


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == len("2024-01-31")


WEIGHTS = ("raw", "ema", "swa")
# Keys that a command reads off the command line; they are no part of a run.
COMMAND_KEYS = ("resume", "run", "experiment", "sweep", "ablate", "bench")

# What a group's `_target_` must be a kind of. Only classes defined in this package qualify, because a
# run folder's config may come from a stranger and must not be able to name anything else.
GROUPS = {
    "data": "stockenh.data.sources.base.DataSettings",
    "split": "stockenh.data.splits.Split",
    "embedding": "stockenh.embedding.base.Embedding",
    "model": "stockenh.models.spec.ModelSettings",
    "loss": "stockenh.training.losses.base.Loss",
    "optimizer": "stockenh.training.optimizers.OptimizerSettings",
    "schedule": "stockenh.training.schedules.ScheduleSettings",
    "averaging": "stockenh.training.averaging.Averaging",
    "augment": "stockenh.data.prices.Augment",
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
