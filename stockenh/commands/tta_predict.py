"""Forecasts with a finished run: files, a table of the first rows, a picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from stockenh.commands.exported import OnnxEngine, exported_model
from stockenh.commands.forecasts import confident_margin, forecast_frame, newest_forecasts, quantile_interval
from stockenh.commands.frames import write_frame
from stockenh.commands.report.pages import leave_page
from stockenh.commands.track.recording import record
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.schema import TtaPredictConfig
from stockenh.data.targets import Relative
from stockenh.data.windows import BarWindows, Windows
from stockenh.errors import ConfigError, counted
from stockenh.evaluation.ic import PANEL_SYMBOLS
from stockenh.inference.predict import (
    Engine,
    TorchEngine,
    Views,
    forecast_with,
)
from stockenh.report.candles import candles_chart
from stockenh.report.figure import (
    COLOURS,
    GREY,
    bars_text,
    named_rows,
    new_figure,
    save,
    short_percent,
)
from stockenh.report.table import Grid, as_table, between, findings_summary, number, of_target, percent
from stockenh.report.terminal import embedding_progress, print_files, print_line
from stockenh.storage.files import expanded, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def forecast_table(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    most: int = 12,
    target: str = "absolute",
    seen: Collection[str] | None = None,
) -> Table:
    """The first `most` rows of a forecast file; all of them are in the file. Of a panel's one day, those that
    rank first and last at the largest horizon.

    seen: the symbols of the train part; rows of others are shown too, up to as many again, and marked

    Of another target than the return itself, and where that is not known, the score and its rank of the day
    stand in place of the return.
    """
    ranked = _ranked(rows)
    new = {row["symbol"] for row in rows} - {*seen} if seen is not None else set()
    shown = _shown(ranked or rows, most, bool(ranked), new)
    more = [f"and {counted(len(rows) - len(shown), 'more row')} in the files"] * (len(rows) > len(shown))
    if any(row["uncertainty"] is not None for row in shown):
        more = ["+-: standard deviation over views and members", *more]
    more = ["*: no window of this symbol was in the train part"] * bool(new) + more
    if ranked:
        which = f"the highest and lowest of {len(ranked)}" if len(ranked) > most else f"the {len(ranked)}"
        title = f"{title}; {which} symbols by rank"
    has_return = target == "absolute" and all(row["ret"] is not None for row in shown)
    forecast = ["return" if has_return else "score"]
    forecast += ["rank"] if ranked or not has_return else []
    names = ("symbol", "date", "bars", *forecast, "up", "+-", "confident")
    confident = {True: "yes", False: "no", None: "n/a"}
    cells = [
        (
            f"{row['symbol']}{' *' * (row['symbol'] in new)}", str(row["date"]), str(row["horizon"]),
            f"{100 * row['ret']:+.2f}%" if has_return else f"{row['score']:+.4f}",
            *((str(row["rank"]),) if "rank" in forecast else ()),
            percent(row["up_prob"]), percent(row["uncertainty"], 3), confident[row["confident"]],
        )
        for row in shown
    ]  # fmt: skip
    table = as_table(Grid(f"{title}{of_target(target)}", names, [cells], "\n".join(more) or None, names[:2]))
    table.padding = (0, 1)
    return table


def _shown(
    rows: Sequence[Mapping[str, Any]], most: int, ranked: bool, new: Collection[str]
) -> list[Mapping[str, Any]]:
    """`most` of the rows, the ends of a ranking or the first, and as many again of the symbols in `new`."""
    ends = {*range(most // 2), *range(len(rows) - most // 2, len(rows))} if ranked else {*range(most)}
    chosen = ends if len(rows) > most else {*range(len(rows))}
    missing = [at for at, row in enumerate(rows) if row["symbol"] in new and at not in chosen]
    later: Counter[str] = Counter()
    order = []
    for at in reversed(missing):  # a row of every symbol before the second of any
        later[rows[at]["symbol"]] += 1
        order.append((later[rows[at]["symbol"]], at))
    return [rows[at] for at in sorted(chosen | {at for _, at in sorted(order)[:most]})]


def verdict_lines(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Per horizon which way the forecasts point, and whether the run's direction on its own test part is
    shown to be better than always the larger class.

    scores: as of `Trained.test_scores`
    """
    lines = []
    for horizon in sorted({row["horizon"] for row in rows}):
        of = [row["up_prob"] > 0.5 for row in rows if row["horizon"] == horizon]
        lines.append(f"{bars_text(f'h{horizon}')}: {_pointing(of)}, {_worth(scores.get(f'h{horizon}', {}))}")
    return lines


def _pointing(up: Sequence[bool]) -> str:
    """`all 4 forecasts are up`."""
    if sum(up) in (0, len(up)):
        way = "up" if up[0] else "down"
        all_of_them = {1: "the forecast is", 2: "both forecasts are"}
        return f"{all_of_them.get(len(up), f'all {len(up):,} forecasts are')} {way}"
    return f"{sum(up):,} of {len(up):,} forecasts {'is' if sum(up) == 1 else 'are'} up"


def _worth(m: Mapping[str, Any]) -> str:
    """Whether a direction was better than a constant one."""
    accuracy, low, majority = (m.get(key) for key in ("accuracy", "accuracy_low", "majority"))
    if accuracy is None or majority is None:
        return "and no test figures of these weights say what they are worth"
    share = m.get("up_share")
    constant = "the larger class" if share is None else "always up" if share > 0.5 else "always down"
    if low is None:
        return f"and the run's test part has too few dates to compare them with {constant}"
    figures = (
        f"(accuracy {percent(accuracy)}, 95% {between(low, m.get('accuracy_high'), 100, 1)}, against "
        f"{percent(majority)}, on the run's own test part)"
    )
    return f"{'better' if low > majority else 'not shown to be better'} than {constant} {figures}"


def _ranked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The symbols of a panel's one day by their rank at the largest horizon; empty where it is none."""
    largest = max((row["horizon"] for row in rows), default=0)
    of_day = [row for row in rows if row["horizon"] == largest]
    if len(of_day) < PANEL_SYMBOLS or len({row["date"] for row in of_day}) > 1:
        return []
    return sorted(of_day, key=lambda row: (row["rank"], row["symbol"]))


def skill_lines(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Per horizon the rank IC that the run had on its own test part; none where it was no panel."""
    return [
        f"{bars_text(horizon)}: rank IC {number(m['rank_ic'], 3)} "
        f"(95% {between(m.get('rank_ic_low'), m.get('rank_ic_high'), 1, 3)}) on the run's own test part"
        for horizon, m in scores.items()
        if m.get("rank_ic") is not None
    ]


def forecast_chart(rows: Sequence[Mapping[str, Any]], path: Path, up: str = "a rise") -> Path:
    """Forecast probability of up with its uncertainty, a panel per horizon; returns the path written.

    up: what the probability is of; rows: `symbol date horizon up_prob uncertainty confident`. One bar per
    symbol becomes a list of symbols, more become lines through time; beyond 25 symbols or 7 lines, those
    farthest from 50% are shown.
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
    title = f"Calibrated probability of {up}"
    if len(far) > most:
        title += f" of the {len(shown)} of {len(by_symbol)} symbols farthest from 50%"
    title += f", {_dates(rows)}"
    if any(row["confident"] is not None for row in rows):
        title += f"\n{'dots' if through_time else 'filled'}: confident"
    if not through_time and any(row["uncertainty"] is not None for row in rows):
        title += "; ±: points of standard deviation over views and members"
    return save(figure, title, path)


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
    named_rows(axes, list(forecasts))
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    short_percent(axes.xaxis)
    axes.set_xlabel("probability of up")


def _draw_through_time(axes: Axes, forecasts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line per symbol, with a dot where it is confident."""
    for colour, (name, of_symbol) in zip(COLOURS, forecasts.items(), strict=False):
        dates = [row["date"] for row in of_symbol]
        label = name.replace("$", r"\$")
        axes.plot(dates, [row["up_prob"] for row in of_symbol], color=colour, linewidth=1.1, label=label)
        sure = [row for row in of_symbol if row["confident"]]
        axes.plot([r["date"] for r in sure], [r["up_prob"] for r in sure], ".", color=colour, markersize=5)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    short_percent(axes.yaxis)
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))


def forecast_run(
    config: TtaPredictConfig,
    trained: Trained,
    directory: Path,
    console: Console,
    ledger: str | None = None,
) -> pl.DataFrame:
    """Forecasts the newest windows, or those of the dates in `tta`; leaves forecast.parquet, .csv and .png in
    `directory`, prints a table.

    config: the run's, with the data to forecast. Raises ConfigError where it has another model.
    """
    period = (config.tta.since, config.tta.until) != (None, None)
    if ledger is not None and (period or not config.data.brings_bars):
        raise ConfigError("ledger= records the newest bars: leave tta.from, tta.to and data=windows out")
    windows, frame, cutoff, views = _forecasts(config, trained, console)
    write_frame(frame, directory / "forecast")
    newest, target = _newest(config, windows, frame, trained.seen_symbols()), config.target
    if newest is None:
        forecast_chart(frame.to_dicts(), directory / "forecast.png", target.up)
    else:
        candles_chart(newest, directory / "forecast.png")
    title = _title(config, trained, views)
    rows, scores = frame.to_dicts(), trained.test_scores()
    console.print(forecast_table(rows, title, target=target.name, seen=trained.seen_symbols()))
    if cutoff is not None:
        limit = 1 - config.tta.coverage
        console.print(f"confident: farther from 50% than {limit:.0%} of the validation forecasts")
    skill, verdicts = skill_lines(scores), verdict_lines(rows, scores)
    lines = [("skill", line) for line in skill] + [("verdict", line) for line in verdicts]
    if ledger is not None:
        assert isinstance(windows, BarWindows)
        relative = isinstance(target, Relative)
        lines.append(("ledger", record(expanded(ledger), trained, frame, windows, relative)))
    for label, line in lines:
        print_line(console, f"{label:<8} {line}")
    print_files(console, "forecast", (directory / f"forecast.{kind}" for kind in ("parquet", "csv", "png")))
    if newest is not None:
        about = {"run": trained.source, "title": title, "notes": [*skill, *verdicts], "newest": newest}
        write_json(directory / "forecast.json", about)
        leave_page(directory, console)
    return frame


def _forecasts(
    config: TtaPredictConfig, trained: Trained, console: Console
) -> tuple[Windows, pl.DataFrame, NDArray[np.float64] | None, Views]:
    """The windows, their forecasts as rows, the cut-off of `confident`, and the views that were averaged."""
    tta = config.tta
    trained.require_inputs(config, "run", ("model", "embedding"))
    device = build.device(config.device if tta.engine == "torch" else "cpu")
    torch.set_num_threads(min(config.threads or 1, os.cpu_count() or 1))
    trained.require_embedding(config.embedding)
    with embedding_progress(console) as watch:
        prepared, lacking = build.to_forecast(config, device, watch)
    for line in findings_summary(prepared.findings):
        console.print(f"data     {line}")
    for symbol, why in lacking.items():
        print_line(console, f"left out {symbol}: {why}")
    views = build.views(config)
    if views.count and not config.data.brings_bars:
        console.print("data=windows has no raw bars to add noise to: a plain forecast without uncertainty")
        views = replace(views, count=0)
    net = trained.net(prepared, device)
    ready, fitted = trained.ready(prepared, device)
    engine: Engine = TorchEngine(net, ready, fitted, trained.calibration, views.precision)
    if tta.engine != "torch":
        exported = exported_model(trained, tta.engine)
        engine = OnnxEngine(exported, ready, prepared.windows, prepared.embedding, fitted)
    rows = prepared.rows["forecast"]
    found = forecast_with(engine, ready, rows, views)
    cutoff = confident_margin(trained, tta.coverage, console)
    interval = quantile_interval(trained, net, ready, rows, fitted, console)
    frame = forecast_frame(prepared.windows, found, cutoff, _is_return(config), interval)
    return prepared.windows, frame, cutoff, views


def _title(config: TtaPredictConfig, trained: Trained, views: Views) -> str:
    title = f"{trained.title}, {counted(1 + views.count, 'view')}"
    if views.count and views.precision != "fp32":
        return f"{title}, in {views.precision}"
    return title if config.tta.engine == "torch" else f"{title}, by the exported {config.tta.engine} file"


def _is_return(config: TtaPredictConfig) -> bool:
    """Whether forecasts have a size in units of returns."""
    return config.target.is_return and config.loss.gives_returns


def _newest(
    config: TtaPredictConfig, windows: Windows, frame: pl.DataFrame, seen: set[str] | None
) -> dict[str, Any] | None:
    """The forecasts beside their bars; None without bars, or for a period in place of the newest bars."""
    if not isinstance(windows, BarWindows) or (config.tta.since, config.tta.until) != (None, None):
        return None
    return newest_forecasts(windows, frame, _is_return(config) and config.target.name == "absolute", seen)
