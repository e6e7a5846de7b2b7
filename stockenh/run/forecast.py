"""Forecasts of a finished run for bars that may be new to it, from the run folder and those bars alone."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from stockenh import build
from stockenh.config import RunConfig
from stockenh.data.windows import Windows
from stockenh.errors import RunFolderError, StockenhError
from stockenh.files import write_atomic
from stockenh.plots.forecast import forecast_chart
from stockenh.run.calibrate import confidence_of
from stockenh.run.engine import OnnxEngine, exported_model
from stockenh.run.provenance import require_same_weights
from stockenh.run.session import Session
from stockenh.run.trained import Trained
from stockenh.tables.findings import findings_summary
from stockenh.tables.forecast import forecast_table
from stockenh.terminal import embedding_progress
from stockenh.tta import (
    Confidence,
    Engine,
    Forecast,
    TorchEngine,
    Views,
    forecast_with,
    read_confidences,
)


def forecast_run(config: RunConfig, trained: Trained, into: Path, out: Console) -> pl.DataFrame:
    """Forecasts what `config` asks for; leaves forecast.parquet, .csv and .png in `into`, prints a table.

    config: the run's, with the data to forecast. Raises ConfigError where it asks for another model.
    """
    trained.require_inputs(config, "run", ("model", "embedding"))
    on = build.device(config.device if config.tta.engine == "torch" else "cpu")
    torch.set_num_threads(min(config.threads or 1, os.cpu_count() or 1))
    require_same_weights(trained.folder, config.embedding)
    with embedding_progress(out) as watch:
        prepared, lacking = build.to_forecast(config, on, watch)
    for line in findings_summary(prepared.findings):
        out.print(f"data     {line}", markup=False)
    for symbol, why in lacking.items():
        out.print(f"left out {symbol}: {why}", markup=False, soft_wrap=True)
    views = build.views(config)
    if views.count and not config.data.brings_bars:
        out.print("data=windows has no raw bars to add noise to: a plain forecast without uncertainty")
        views = replace(views, count=0)
    net = trained.net(prepared, on)
    ready, fitted = trained.ready(prepared, on)
    engine: Engine = TorchEngine(net, ready, fitted, trained.calibration, views.precision)
    if config.tta.engine != "torch":
        exported = exported_model(trained, config.tta.engine)
        engine = OnnxEngine(exported, ready, prepared.windows, prepared.embedding)
    found = forecast_with(engine, ready, prepared.rows["forecast"], views)
    confidence = _confidence(config, trained, net, views, on, out)
    cutoff = None if confidence is None else confidence.cutoff(config.tta.coverage)
    frame = forecast_frame(prepared.windows, found, cutoff)
    _write(frame, into)
    counted = f"{1 + views.count} view{'s' * (views.count > 0)}"
    calibrated = "calibrated" if trained.held_out else "not calibrated: the run held nothing out"
    by = "" if config.tta.engine == "torch" else f", by the exported {config.tta.engine} file"
    by = f", in {views.precision}" if views.count and views.precision != "fp32" else by
    out.print(forecast_table(frame.to_dicts(), f"{trained.name} weights, {counted}, {calibrated}{by}"))
    if cutoff is not None:
        out.print(
            f"confident: as little uncertainty as the {config.tta.coverage:.0%} least uncertain of validation"
        )
    for name in ("forecast.parquet", "forecast.csv", "forecast.png"):
        out.print(f"forecast {into / name}", soft_wrap=True, markup=False)
    return frame


def forecast_frame(windows: Windows, found: Forecast, cutoff: NDArray[np.float64] | None) -> pl.DataFrame:
    """`symbol date horizon ret up_prob uncertainty confident`, a row per window and horizon.

    ret in raw units; what is not known (uncertainty without views, confident without a cut-off) is null.
    """
    horizons = len(windows.horizons)
    days = windows.asof.astype("datetime64[D]")
    date = days if (days == windows.asof).all() else windows.asof.astype("datetime64[ms]")
    uncertainty: Sequence[float | None] = [None] * found.ret.size
    confident: Sequence[bool | None] = [None] * found.ret.size
    if found.uncertainty is not None:
        uncertainty = found.uncertainty.ravel().tolist()
        if cutoff is not None:
            confident = (found.uncertainty <= cutoff).ravel().tolist()
    return pl.DataFrame(
        {
            "symbol": np.repeat(np.array(windows.symbols)[windows.symbol], horizons),
            "date": np.repeat(date, horizons),
            "horizon": np.tile(np.array(windows.horizons, np.int64), len(windows)),
            "ret": found.ret.ravel(),
            "up_prob": found.up_prob.ravel(),
            "uncertainty": pl.Series(uncertainty, dtype=pl.Float64),
            "confident": pl.Series(confident, dtype=pl.Boolean),
        }
    )


def _write(frame: pl.DataFrame, into: Path) -> None:
    parquet, csv = io.BytesIO(), io.BytesIO()
    frame.write_parquet(parquet)
    frame.write_csv(csv)
    write_atomic(into / "forecast.parquet", parquet.getbuffer())
    write_atomic(into / "forecast.csv", csv.getbuffer())
    forecast_chart(frame.to_dicts(), into / "forecast.png")


def _confidence(
    config: RunConfig, trained: Trained, net: nn.Module, views: Views, on: torch.device, out: Console
) -> Confidence | None:
    """The run's own percentiles of uncertainty; measured anew for other views than it kept."""
    if views.count == 0:
        return None
    if not trained.held_out:
        out.print("confident is unknown: the run held nothing out to take a cut-off from")
        return None
    horizons = len(trained.calibration.temperature)
    stored = read_confidences(trained.folder.read_json(trained.folder.confidence), horizons)
    found = stored.get(trained.name)
    if found is not None and found.views == views.to_dict():
        return found
    try:
        session = _session(config, trained, on, out)
    except StockenhError as error:
        out.print(f"confident is unknown: the run kept no cut-off for these views, and {error}", markup=False)
        return None
    found = confidence_of(session, net, trained.calibration, views)
    if found is None:
        out.print("confident is unknown: the run was trained without raw bars")
    return found


def _session(config: RunConfig, trained: Trained, on: torch.device, out: Console) -> Session:
    """The run with its own data. Raises StockenhError where they are not there any more."""
    run = replace(trained.run, cache_dir=config.cache_dir, embedding=config.embedding)
    with embedding_progress(out) as watch:
        prepared = build.data(run, on, watch)
    manifest = trained.folder.read_json(trained.folder.manifest)
    if not isinstance(manifest, dict) or manifest.get("data") != prepared.windows.digest():
        raise RunFolderError("its bars are no longer those that it was trained on")
    ready, fitted = trained.ready(prepared, on)
    return Session(run, trained.folder, prepared, fitted, ready, on, run.train.precision)
