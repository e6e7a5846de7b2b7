"""The only place where config becomes objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stockenh.config.schema import RunConfig, TtaPredictConfig
from stockenh.data import require_memory
from stockenh.data.batches import DateBatches, ReadyWindows, TrainBatches
from stockenh.data.cache import DiskCache, default_root
from stockenh.data.findings import Finding, first_few
from stockenh.data.fitted import Fitted, categories
from stockenh.data.placement import Placement, choose_placement
from stockenh.data.prices import NoAugment, RawNoise
from stockenh.data.splits import PARTS, Split, every_date
from stockenh.data.uniqueness import uniqueness
from stockenh.data.windows import Windows
from stockenh.embedding.compute import Watch, earlier_windows, embed, shuffled, unwatched
from stockenh.errors import ConfigError, DataError, RunFolderError
from stockenh.inference.predict import Views
from stockenh.models import InputSpec
from stockenh.models.categories import network
from stockenh.report.terminal import console, counting
from stockenh.storage.files import expanded
from stockenh.storage.machine import lacks_compiler
from stockenh.storage.run_folder import RunFolder
from stockenh.training.loop import Limits
from stockenh.training.losses import Distilled, Loss
from stockenh.training.optimizers import Schedule, with_swa
from stockenh.training.precision import Precision
from stockenh.training.step import Gradients, KeptGradients, Learner, Objective

AS_IT_IS = NoAugment()
Divide = Callable[[RunConfig, Windows], tuple[Windows, dict[str, NDArray[np.int64]]]]
ON_MPS = (
    "device=mps: untested by this project. Embeddings and attributions are computed on the CPU; there is no "
    "train.compile, no train.precision=fp16 and no second process"
)
BYTES_OF_A_PARAMETER = 16  # in training: float32 weight, gradient and two moments


@dataclass(frozen=True)
class Prepared:
    """Data ready to learn from: all windows, and the window numbers of each part in their order."""

    windows: Windows
    embedding: NDArray[np.floating]
    rows: dict[str, NDArray[np.int64]]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...] = ()

    @property
    def spec(self) -> InputSpec:
        """The widths that a model of the train part must take."""
        known = categories(self.windows, self.rows["train"]) if "train" in self.rows else {}
        return self.spec_of(known)

    def spec_of(self, known: Mapping[str, Sequence[str]]) -> InputSpec:
        """The same for a model that knows these categories."""
        return _spec(self.windows, self.embedding.shape[1], known)


def device(name: str) -> torch.device:
    """The device that `device=` names; MPS by its name alone. Raises ConfigError where there is none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        found = torch.device("meta")  # none of those below
    if found.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={name}: write auto, cpu, cuda or cuda:1 (or mps, on a Mac)")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device={name}: torch finds no MPS here; write device=cpu or device=auto")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: no CUDA device is available here; write device=cpu or device=auto")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA device(s), from cuda:0"
        )
    return found


def cache(config: RunConfig) -> DiskCache:
    """The disk cache that the config names, see `disk_cache`."""
    return disk_cache(config.cache_dir)


def disk_cache(directory: str | None) -> DiskCache:
    """The cache in a folder, None: in the default one; what is wrong with it is printed once."""
    root = expanded(directory) if directory else default_root()
    if root is None:
        _warn("no home folder for a cache: going on without; cache_dir=DIR or $STOCKENH_CACHE names one")
    store = DiskCache(root, _warn)
    if root not in _CLEANED:
        _CLEANED.add(root)
        store.clean()
    return store


_CLEANED: set[Path | None] = set()  # the caches that this process has looked through already


def _warn(message: str) -> None:
    console(stderr=True).print(f"stockenh: {message}", soft_wrap=True)


def with_resolved_data(config: RunConfig) -> RunConfig:
    """The config with one download of its bars named, made where need be: a resumed run reads the same."""
    if not config.data.downloads:
        return config
    out = console(stderr=True)
    say = partial(out.print, soft_wrap=True)
    with counting(out, "downloading", "symbols") as watch:
        return replace(config, data=config.data.resolve(cache(config), watch, say))


def with_resolved_embedding(config: RunConfig, on: torch.device) -> RunConfig:
    """The config with what the embedding leaves to the device decided: a resumed run does the same."""
    return replace(config, embedding=config.embedding.resolve(on))


def windows(config: RunConfig) -> Windows:
    """All windows that the config names, not split and without their embedding."""
    return config.data.load(cache(config)).windows


def data(
    config: RunConfig, on: torch.device, watch: Watch = unwatched, divide: Divide | None = None
) -> Prepared:
    """Loads bars or windows, divides them into parts and embeds every window; `watch` sees how far that is.

    divide: None for `labelled_parts`
    """
    store = cache(config)
    loaded = with_resolved_data(config).data.load(store)
    windows = loaded.windows
    refuse_misfit(config, windows)
    labelled, rows = (divide or labelled_parts)(config, windows)
    embedding = embed(windows, config.embedding, store, on, watch)
    if config.embedding.shuffle:
        embedding = shuffled(embedding, earlier_windows(windows, config.seed), store)
    test_begins = windows.asof[rows["test"]].min() if "test" in rows else None
    # no checkpoint was trained on a generated market
    warnings = () if config.data.generated else config.embedding.warnings(test_begins)
    return Prepared(labelled, embedding, rows, loaded.findings, warnings)


def split_rows(split: Split, windows: Windows) -> dict[str, NDArray[np.int64]]:
    """The window numbers of each part of a split, in their order. Raises ConfigError where one is empty."""
    labelled = np.flatnonzero(windows.labelled)
    assigned = split.assign(windows.asof[labelled], lambda extra: windows.reach(labelled, extra))
    return {name: labelled[assigned == PARTS[name]] for name in split.parts}


def labelled_parts(config: RunConfig, windows: Windows) -> tuple[Windows, dict[str, NDArray[np.int64]]]:
    """The windows with the target as their label, and of each part the rows that have one; train is thinned
    by data.stride, and its labels weigh what train.uniqueness says.

    Raises ConfigError where a part is empty.
    """
    windows, rows = config.target.apply(windows, split_rows(config.split, windows))
    train = rows["train"]
    rows["train"] = train[every_date(windows.asof[train], config.data.stride)]
    if config.train.uniqueness:
        windows = replace(windows, weight=uniqueness(windows, rows["train"]))
    return windows, rows


def undivided(config: RunConfig, windows: Windows) -> tuple[Windows, dict[str, NDArray[np.int64]]]:
    """The windows with simple returns, and all that have one as the part train."""
    return windows, {"train": np.flatnonzero(windows.labelled)}


def to_forecast(
    config: TtaPredictConfig, on: torch.device, watch: Watch = unwatched
) -> tuple[Prepared, dict[str, str]]:
    """The windows that end at the newest bar of each symbol, or within the dates of `tta`; no labels needed.

    Also the symbols that have no such window, and why. Raises DataError where none has.
    """
    loaded = with_resolved_data(config).data.load(cache(config), labels=False)
    windows, since, until = loaded.windows, config.tta.since, config.tta.until
    rows, lacking = windows.newest()
    if since is not None or until is not None:
        rows = windows.between(since, until)
        lacking = _outside(windows, rows, lacking) if len(windows) else lacking
    if not len(rows):
        raise DataError(_nothing_to_forecast(windows, lacking, since, until))
    wanted = windows.take(rows)
    refuse_misfit(config, wanted)
    sources = (
        windows.take(earlier_windows(windows, config.seed)[rows]) if config.embedding.shuffle else wanted
    )
    # the cache holds embeddings of whole data sets
    embedding = embed(sources, config.embedding, DiskCache(None), on, watch)
    return Prepared(wanted, embedding, {"forecast": np.arange(len(wanted))}, loaded.findings), lacking


def views(config: RunConfig) -> Views:
    """The views that test-time augmentation averages."""
    tta = config.tta
    return Views(tta.views, RawNoise(tta.price, tta.volume), config.seed, tta.precision)


def model(config: RunConfig, prepared: Prepared, on: torch.device, fitted: Fitted | None = None) -> nn.Module:
    """The model with its initial weights, which depend on the seed alone.

    fitted: whose categories it knows; None: those of the train part
    """
    torch.manual_seed(config.seed)
    spec = prepared.spec if fitted is None else prepared.spec_of(fitted.categories)
    return network(config.model, spec).to(on)


def learner(config: RunConfig, net: nn.Module, fitted: Fitted, on: torch.device, steps: int) -> Learner:
    """The model with everything that trains it; the precision is resolved. steps: in an epoch."""
    graphs = config.train.compile and on.type == "cuda"
    if config.train.compile:
        # every batch size is compiled on its own, the short last one of an epoch too; graphs need a GPU
        net.compile(dynamic=False, mode="reduce-overhead" if graphs else "default")
    optimizer = config.optimizer.build(net.parameters())
    return Learner(
        model=net,
        objective=Objective(_loss(config, fitted)),
        optimizer=optimizer,
        schedule=_schedule(config, optimizer, steps),
        precision=Precision(config.train.precision, on),
        averages=config.averaging.build(net, config.train.epochs),
        max_norm=config.train.max_norm,
        gradients=KeptGradients() if graphs else Gradients(),
    )


def limits(config: RunConfig) -> Limits:
    """How long to train: neither a warm-up nor epochs before SWA's start can end a run early."""
    settings, waits = config.train, config.train.patience_from == "peak"
    peak = math.ceil(config.schedule.warmup * settings.epochs) if waits else 0
    first = max(peak, config.averaging.swa_first(settings.epochs) or 0)
    return Limits(settings.epochs, settings.patience, 60 * settings.checkpoint_minutes, first)


def require_compiler(config: RunConfig, on: torch.device) -> None:
    """Raises ConfigError where train.compile is set and there is no compiler, and where MPS lacks more."""
    if on.type == "mps":
        if config.train.compile or config.train.precision == "fp16":
            raise ConfigError("device=mps has neither train.compile nor train.precision=fp16 here")
        _warn(ON_MPS)
    if config.train.compile and (lacking := lacks_compiler(on)) is not None:
        raise ConfigError(f"train.compile=true: {lacking} is found here; install one, or leave it out")


def refuse_misfit(config: RunConfig, windows: Windows) -> None:
    """Raises ConfigError where the model and these windows don't fit together; trains nothing."""
    known = {name: set(of) for name, of in zip(windows.static_names, windows.static, strict=True)}
    spec = _spec(windows, config.embedding.width_of(windows), known)
    with torch.device("meta"):
        net = network(config.model, spec)
    parameters = sum(p.numel() for p in net.parameters())
    require_memory(BYTES_OF_A_PARAMETER * parameters, f"a model of {parameters:,} parameters")
    config.model.try_out(spec)


def _outside(windows: Windows, rows: NDArray[np.int64], lacking: dict[str, str]) -> dict[str, str]:
    """The symbols that have none of these windows, and why."""
    found, reasons = set(windows.symbol[rows].tolist()), {}
    for number, name in enumerate(windows.symbols):
        asof = windows.asof[windows.symbol == number]
        if number not in found and len(asof):
            first, last = (str(time)[:10] for time in (asof.min(), asof.max()))
            reasons[name] = f"no window ends on these dates; the first ends on {first}, the last on {last}"
        elif number not in found:
            reasons[name] = lacking.get(name, "too few bars for a window")
    return reasons


def _nothing_to_forecast(
    windows: Windows, lacking: dict[str, str], since: str | None, until: str | None
) -> str:
    if lacking and (not len(windows) or since is until is None):
        name, why = next(iter(lacking.items()))
        others = f" (and {len(lacking) - 1} more symbols)" if len(lacking) > 1 else ""
        return f"no symbol can be forecast: {name} has {why}{others}"
    first, last = (str(time)[:10] for time in (windows.asof.min(), windows.asof.max()))
    dates = " ".join(f"tta.{k}={v}" for k, v in (("from", since), ("to", until)) if v is not None)
    return (
        f"{dates}: no bar of these dates has the {windows.lookback} bars of data.lookback up to it; "
        f"those that have lie from {first} to {last}"
    )


def _loss(config: RunConfig, fitted: Fitted) -> Loss:
    hard = config.loss.fitted(fitted.up_share)
    if config.teacher is None:
        return hard
    return Distilled(hard, config.distill.temperature, config.distill.weight)


def _schedule(config: RunConfig, optimizer: torch.optim.Optimizer, steps: int) -> Schedule:
    epochs, peak = config.train.epochs, config.optimizer.peak
    plan = config.schedule.plan(peak, epochs * steps)
    first = config.averaging.swa_first(epochs)
    if first is not None:
        anneal_steps = steps if config.averaging.swa_anneal == "cosine" else 0
        plan = with_swa(plan, first * steps, config.averaging.swa_lr_factor * peak, anneal_steps)
    return Schedule(optimizer, plan)


def quantile_levels(config: RunConfig) -> tuple[float, ...]:
    """Of the quantiles that a run learns; empty where it learns none."""
    return config.model.levels if config.loss.trains_quantiles else ()


def batches(config: RunConfig, prepared: Prepared, ready: ReadyWindows) -> TrainBatches:
    """The train part in groups of micro batches."""
    kind = DateBatches if config.train.batch == "date" else TrainBatches
    return kind(
        ready,
        prepared.rows["train"],
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
        seed=config.seed,
        augment=config.augment,
    )


def placement(config: RunConfig, prepared: Prepared, on: torch.device) -> Placement:
    """Where the windows are stored, by `train.resident`."""
    return choose_placement(config.train.resident, prepared.windows, prepared.embedding, on)


def fitted_of(folder: RunFolder, prepared: Prepared) -> Fitted:
    """A run's own statistics. Raises RunFolderError where they don't fit the data at hand."""
    fitted = Fitted.from_dict(folder.read_json(folder.fitted))
    windows = prepared.windows
    known, here = [*fitted.context_names, *fitted.categories], windows.input_names
    if known != list(here):
        absent = [name for name in known if name not in here]
        more = f": there is no {first_few(absent, 5)} here" if absent else ""
        raise RunFolderError(f"{folder} was trained on other context features than this data has{more}")
    if len(fitted.return_std) != len(prepared.windows.horizons):
        raise RunFolderError(
            f"{folder} was trained on {len(fitted.return_std)} horizons, this data has others"
        )
    return fitted


def trained_model(
    config: RunConfig, prepared: Prepared, folder: RunFolder, name: str, on: torch.device
) -> nn.Module:
    """The model with the weights called `name` that a run folder holds."""
    state, source = folder.read_weights(name), f"{folder.weights(name)}"
    spec = prepared.spec_of(fitted_of(folder, prepared).categories)
    # an untrusted config may describe a model of any size: its shapes are compared before memory is taken
    with torch.random.fork_rng([]), torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in network(config.model, spec).state_dict().items()}
    if shapes != {key: tensor.shape for key, tensor in state.items()}:
        raise _other_model(source)
    net = network(config.model, spec)
    load_weights(net, state, source)
    return net.to(on).eval()


def load_weights(net: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Strict load; raises RunFolderError where names or shapes are not this model's."""
    try:
        net.load_state_dict(state)
    except RuntimeError:
        raise _other_model(source) from None


def _other_model(source: str) -> RunFolderError:
    return RunFolderError(f"{source} holds the weights of another model than the run's config describes")


def _spec(windows: Windows, embedding: int, known: Mapping[str, Collection[str]]) -> InputSpec:
    return InputSpec(
        lookback=windows.lookback,
        price=5,
        embedding=embedding,
        context=windows.context.shape[1],
        horizons=len(windows.horizons),
        categories=tuple(max(len(names), 1) for names in known.values()),
    )
