"""The nodes of the config that are no choice of a group: numbers with their units, and what they must be."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, field

from stockenh.errors import ConfigError
from stockenh.overrides import suggest

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
