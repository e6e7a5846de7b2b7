"""The part of an export that computes a model's inputs from raw bars."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from stockenh.commands.trained import LoadedRun
from stockenh.config import build
from stockenh.config.schema import ExportRunConfig
from stockenh.data.cache import code_of, key_of
from stockenh.data.features import FeatureSettings, feature_names, timeframe_groups
from stockenh.data.sources import BarData
from stockenh.data.windows import BarWindows
from stockenh.embedding import NoEmbedding
from stockenh.embedding.kernel import KernelEmbedding
from stockenh.inference.bar_inputs import SHORTEST, BarInputs, write_features
from stockenh.inference.conformal import HIGH, LOW, MEDIAN, has_interval
from stockenh.inference.export import FEATURES, ONNX, ExportError, OnnxModel
from stockenh.models import PRICE_SERIES
from stockenh.report.terminal import print_line
from stockenh.storage.files import write_atomic

COMPARED = 64  # windows, each with all bars before it
FEW = 3  # of them, whose embedding may be rounded otherwise
FORGOTTEN = 0.01  # the weight of a symbol's first bar, at which more history is no longer worth sending
_SLOWEST = 1 - 2 / 22  # what an EMA over 21 periods keeps of its past in one
MAX_GAP_DAYS = 30  # where the run's source has no such setting

Run = LoadedRun[ExportRunConfig]
Outputs = Mapping[str, NDArray[np.floating]]


def export_bars(
    run: Run, rows: NDArray[np.int64], own: Outputs, directory: Path, limit: float, console: Console
) -> dict[str, Any]:
    """Writes features.onnx into the export and compares forecasts from bars with the run's own; what the
    manifest says of bars. Where bars don't suffice for the run's inputs, it prints and returns why.

    own: forecasts of `rows`. Raises ExportError where one is more than `limit` away.
    """
    reason = unavailable(run)
    if reason is not None:
        print_line(console, f"bars     not exported: {reason}; the model takes its inputs instead")
        return {"bars": None, "bars_unavailable": reason}
    windows, data = run.prepared.windows, run.config.data
    assert isinstance(windows, BarWindows) and isinstance(data, BarData)
    least = max(windows.lookback, SHORTEST)
    console.print("export   the features, from raw bars")
    write_atomic(directory / FEATURES, _graph(run, least))
    difference, compared = _compare(run, windows, least, rows, own, directory)
    for name, value in difference.items():
        if not value <= limit:
            raise ExportError(
                f"from raw bars, {name} is up to {value:.1e} away from the run, more than {limit:g}: "
                f"not exported"
            )
    if compared:
        listed = ", ".join(f"{name} {value:.1e}" for name, value in difference.items())
        print_line(console, f"parity   {compared} of these windows from raw bars: {listed}")
    of_bars = {
        "features": FEATURES,
        "inputs": {
            "time": {"shape": ["batch", "bars"], "dtype": "int64", "unit": "seconds since 1970-01-01 00:00"},
            "bars": {"shape": ["batch", "bars", len(PRICE_SERIES)], "dtype": "float64"},
        },
        "columns": list(PRICE_SERIES),
        "adjust": getattr(data, "adjust", True),
        "daily": bool((windows.asof == windows.asof.astype("datetime64[D]")).all()),
        "max_gap_days": getattr(data, "max_gap_days", MAX_GAP_DAYS),
        "history_bars": {"least": least, "enough": max(least, _enough(windows, data.timeframes))},
        "parity": {"windows": compared, "largest_difference": difference},
    }
    return {"bars": of_bars, "interval": _interval(run), **_units(run)}


def unavailable(run: Run) -> str | None:
    """Why the run's inputs can't be computed from the bars of one symbol; None where they can."""
    config, windows = run.config, run.prepared.windows
    if not isinstance(windows, BarWindows) or not isinstance(config.data, BarData):
        return "the run's data are ready windows, without bars"
    if config.data.market:
        return "with data.market=true its features need the bars of all symbols"
    if not isinstance(config.embedding, KernelEmbedding | NoEmbedding):
        return "its embedding comes from another model (embedding=kernel or none can be exported)"
    if config.embedding.shuffle:
        return "embedding.shuffle=true gives each window the embedding of another"
    known = feature_names(_settings(config.data))
    more = [name for name in windows.input_names if name not in known]
    if more:
        return f"bars don't have its columns {', '.join(more[:5])}"
    return None


def _settings(data: BarData) -> FeatureSettings:
    return FeatureSettings(tuple(data.timeframes), data.lookback, data.market)


def _graph(run: Run, least: int) -> bytes:
    """The ONNX file, from the cache where settings, code and libraries are the same: it takes seconds."""
    data, embedding = run.config.data, run.config.embedding
    assert isinstance(data, BarData)
    settings = _settings(data)
    kernel = embedding if isinstance(embedding, KernelEmbedding) else None
    libraries = [metadata.version(name) for name in ("torch", "onnxscript")]
    code = [code_of(package) for package in ("data", "embedding", "inference")]
    key = key_of(settings, kernel and kernel.identity(), libraries, code)

    def write() -> dict[str, NDArray[np.uint8]]:
        return {"graph": np.frombuffer(write_features(BarInputs(settings, kernel), least), np.uint8)}

    return bytes(build.cache(run.config).arrays("features_graph", key, write)["graph"])


def _compare(
    run: Run,
    windows: BarWindows,
    least: int,
    rows: NDArray[np.int64],
    own: Outputs,
    directory: Path,
) -> tuple[dict[str, float], int]:
    """The largest difference of each output over some windows, and their number.

    In about one window of 5,000 the last digit of a logarithm moves one of the embedding's steps. Such
    windows are left out while they are few.
    """
    features, model = OnnxModel(directory / FEATURES), OnnxModel(directory / ONNX)
    bars, end = windows.bars, windows.end[rows]
    begin = bars.offsets[np.searchsorted(bars.offsets, end, side="right") - 1]
    long = np.flatnonzero(end - begin + 1 >= least)
    chosen = long[np.unique(np.linspace(0, len(long) - 1, COMPARED).astype(np.int64))] if len(long) else long
    embedding = run.prepared.embedding[rows]
    worst, others = dict.fromkeys(own, 0.0), 0
    for place in chosen:
        history = slice(int(begin[place]), int(end[place]) + 1)
        time = bars.time[history].astype(np.int64)
        inputs = features({"time": time[None], "bars": bars.ohlcv[history][None]})
        if others < FEW and not np.array_equal(
            inputs.get("embedding", embedding[[place]]), embedding[[place]]
        ):
            others += 1
            continue
        found = model(inputs)
        for name in own:
            difference = float(np.abs(found[name][0].astype(np.float64) - own[name][place]).max())
            worst[name] = max(worst[name], difference)
    return worst, len(chosen) - others


def _enough(windows: BarWindows, timeframes: list[str]) -> int:
    """Bars after which the first one weighs less than 1% in the slowest average of a timeframe."""
    periods = int(np.ceil(np.log(FORGOTTEN) / np.log(_SLOWEST)))
    bars = windows.bars
    sizes = np.diff(bars.offsets)
    longest = bars.rows(int(sizes.argmax()))
    per_period = [
        sizes.max() / len(np.unique(timeframe_groups(bars.time[longest], timeframe)))
        for timeframe in timeframes
    ]
    return int(np.ceil(periods * max(per_period, default=0)))


def _interval(run: Run) -> dict[str, Any] | None:
    """How the 80% interval comes from the output `quantiles`; None where the run has none."""
    levels, conformal = run.trained.quantile_levels, run.trained.conformal()
    if not has_interval(levels) or conformal is None:
        return None
    places = {
        name: list(levels).index(level) for name, level in (("low", LOW), ("middle", MEDIAN), ("high", HIGH))
    }
    return {"places": places, **conformal.to_dict()}


def _units(run: Run) -> dict[str, Any]:
    is_return = run.config.target.is_return and run.config.loss.gives_returns
    return {"forecast": "ret" if is_return else "score"}
