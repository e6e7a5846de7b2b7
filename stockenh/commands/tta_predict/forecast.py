"""The first rows of a forecast."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from stockenh.commands.train.result import confidence_of
from stockenh.commands.train.session import Session
from stockenh.commands.trained import OnnxEngine, Trained, exported_model, require_same_weights
from stockenh.config import build
from stockenh.config.schema import TtaPredictConfig
from stockenh.data.windows import Windows
from stockenh.errors import RunFolderError, StockenhError
from stockenh.inference.tta import (
    Confidence,
    Engine,
    Forecast,
    TorchEngine,
    Views,
    forecast_with,
    read_confidences,
)
from stockenh.report.figure import COLOURS, GREY, bars_text, new_figure, save
from stockenh.report.table import findings_summary, percent
from stockenh.report.terminal import embedding_progress
from stockenh.storage.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def forecast_table(rows: Sequence[Mapping[str, Any]], title: str, most: int = 12) -> Table:
    """The first `most` rows of a forecast file; all of them are in the file."""
    more = f"and {len(rows) - most:,} more rows in the files" if len(rows) > most else None
    table = Table(title=title, title_justify="left", caption=more, caption_justify="left",
                  box=box.SIMPLE_HEAD, show_edge=False)  # fmt: skip
    for name in ("symbol", "date", "bars", "return", "up", "+-", "confident"):
        table.add_column(name, justify="left" if name in ("symbol", "date") else "right", no_wrap=True)
    said = {True: "yes", False: "no", None: "n/a"}
    for row in rows[:most]:
        table.add_row(
            escape(row["symbol"]), str(row["date"]), str(row["horizon"]), f"{100 * row['ret']:+.2f}%",
            percent(row["up_prob"]), percent(row["uncertainty"], 3), said[row["confident"]],
        )  # fmt: skip
    return table


def forecast_chart(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Forecast probability of up with its uncertainty, a panel per horizon; returns the path written.

    rows: `symbol date horizon up_prob uncertainty confident`. One bar per symbol becomes a list of symbols,
    more become lines through time; beyond 25 symbols or 7 lines, those farthest from 50% are shown.
    """
    horizons = sorted({row["horizon"] for row in rows})
    by_symbol: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_symbol.setdefault(row["symbol"], []).append(row)
    through_time = any(len(of) > len(horizons) for of in by_symbol.values())
    most = len(COLOURS) if through_time else 25
    far = sorted(by_symbol, key=lambda name: -max(abs(r["up_prob"] - 0.5) for r in by_symbol[name]))
    shown = sorted(far[:most])
    draw = _draw_through_time if through_time else _draw_symbols
    height = 4.4 if through_time else 1.9 + 0.24 * max(len(shown), 6)
    figure = new_figure(3.4 * max(len(horizons), 2) + 1.2, height)
    first = None
    for place, horizon in enumerate(horizons):
        axes = figure.add_subplot(1, len(horizons), place + 1, sharex=first, sharey=first)
        first = first or axes
        draw(axes, {name: [r for r in by_symbol[name] if r["horizon"] == horizon] for name in shown})
        axes.set_title(f"{bars_text(f'h{horizon}')} ahead", fontsize=10.5)
        if place:
            axes.tick_params(labelleft=False)
    if through_time:
        first.legend(frameon=False, fontsize=9, ncols=2)  # type: ignore[union-attr]
    of = f" of the {len(shown)} of {len(by_symbol)} symbols farthest from 50%" if len(far) > most else ""
    known = any(row["confident"] is not None for row in rows)
    dots = (
        "dots: confident"
        if through_time
        else "filled: confident; ±: points of standard deviation over the views"
    )
    marks = f"\n{dots}" if known else ""
    return save(figure, f"Calibrated probability of a rise{of}, {_dates(rows)}{marks}", path)


def _dates(rows: Sequence[Mapping[str, Any]]) -> str:
    first, last = (str(pick(row["date"] for row in rows)) for pick in (min, max))
    return f"as of {first}" if first == last else f"{first} to {last}"


def _draw_symbols(axes: Axes, forecasts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line of the list per symbol."""
    for place, of_symbol in enumerate(forecasts.values()):
        for row in of_symbol:
            face = COLOURS[0] if row["confident"] else "white"
            axes.errorbar(
                row["up_prob"], place, xerr=row["uncertainty"] or 0, fmt="o", color=COLOURS[0],
                markerfacecolor=face, markersize=5.5, linewidth=1.4, zorder=3,
            )  # fmt: skip
            if row["uncertainty"] is not None:
                # most bars are shorter than the marker is wide: the number says what they can't
                axes.annotate(
                    f"±{100 * row['uncertainty']:.2f}", (row["up_prob"] + row["uncertainty"], place), (5, 0),
                    textcoords="offset points", va="center", fontsize=7.5, color=GREY, zorder=4,
                )  # fmt: skip
    axes.margins(x=0.14)
    axes.set_yticks(range(len(forecasts)), [name.replace("$", r"\$") for name in forecasts], fontsize=9)
    axes.set_ylim(len(forecasts) - 0.4, -0.6)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.set_xlabel("probability of a rise")


def _draw_through_time(axes: Axes, forecasts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line per symbol, with a dot where it is confident."""
    for colour, (name, of_symbol) in zip(COLOURS, forecasts.items(), strict=False):
        dates = [row["date"] for row in of_symbol]
        label = name.replace("$", r"\$")
        axes.plot(dates, [row["up_prob"] for row in of_symbol], color=colour, linewidth=1.1, label=label)
        sure = [row for row in of_symbol if row["confident"]]
        axes.plot([r["date"] for r in sure], [r["up_prob"] for r in sure], ".", color=colour, markersize=5)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))


def forecast_run(config: TtaPredictConfig, trained: Trained, into: Path, out: Console) -> pl.DataFrame:
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
    config: TtaPredictConfig, trained: Trained, net: nn.Module, views: Views, on: torch.device, out: Console
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


def _session(config: TtaPredictConfig, trained: Trained, on: torch.device, out: Console) -> Session:
    """The run with its own data. Raises StockenhError where they are not there any more."""
    run = replace(trained.run, cache_dir=config.cache_dir, embedding=config.embedding)
    with embedding_progress(out) as watch:
        prepared = build.data(run, on, watch)
    manifest = trained.folder.read_json(trained.folder.manifest)
    if not isinstance(manifest, dict) or manifest.get("data") != prepared.windows.digest():
        raise RunFolderError("its bars are no longer those that it was trained on")
    ready, fitted = trained.ready(prepared, on)
    return Session(run, trained.folder, prepared, fitted, ready, on, run.train.precision)
