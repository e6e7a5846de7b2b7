"""Forecasts as rows of a table, and those of the newest windows beside the bars that they follow.

Legend: k windows, H horizons.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from stockenh.commands.frames import dates_of
from stockenh.commands.trained import Trained
from stockenh.data.bars import CLOSE
from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.data.windows import BarWindows, Windows
from stockenh.inference.conformal import has_interval
from stockenh.inference.predict import Forecast, margin, predict

BARS = 40  # that are shown before a forecast
PAST_BARS = 250  # whose returns make the cone of a model without quantiles
FEWEST_RETURNS = 60
SHARES = (0.1, 0.9)  # ends of the cone
DIGITS = 6  # of a price


def newest_forecasts(
    windows: BarWindows, frame: pl.DataFrame, is_return: bool, seen: Container[str] | None = None
) -> dict[str, Any]:
    """`asof horizons is_return has_quantiles symbols`, for JSON.

    frame: of `forecast_frame`, H rows for each of the k windows; is_return: whether `ret` and the quantiles
    are simple returns; seen: the symbols that the model was trained on, None: not known.
    A symbol has `dates bars up_prob ret low high is_forecast rank unseen`; low and high are the ends of the
    80% cone as simple returns: forecast quantiles, else those of the symbol's own past.
    """
    horizons = list(windows.horizons)
    has_quantiles = is_return and "ret_p10" in frame.columns
    rows = frame.to_dicts()
    symbols = []
    for place in range(len(windows)):
        of = rows[len(horizons) * place : len(horizons) * (place + 1)]
        low, high = _past(windows, place)
        if has_quantiles:
            low, high = ([row[name] for row in of] for name in ("ret_p10", "ret_p90"))
        end = int(windows.end[place])
        begin = max(end - BARS + 1, _series_start(windows, end))
        ret = [row["ret"] for row in of]
        symbols.append(
            {
                "symbol": of[0]["symbol"],
                "dates": [_text(time) for time in windows.bars.time[begin : end + 1]],
                "bars": [[float(f"{p:.{DIGITS}g}") for p in bar[: CLOSE + 1]]
                         for bar in windows.bars.ohlcv[begin : end + 1]],
                "up_prob": [round(row["up_prob"], 4) for row in of],
                "ret": None if None in ret or not is_return else [round(r, 6) for r in ret],
                "low": low,
                "high": high,
                "is_forecast": has_quantiles,
                "rank": of[-1]["rank"] if len(windows) > 1 else None,
                "unseen": seen is not None and of[0]["symbol"] not in seen,
            }
        )  # fmt: skip
    return {
        "asof": _text(windows.asof.max()),
        "horizons": horizons,
        "is_return": is_return,
        "has_quantiles": has_quantiles,
        "symbols": symbols,
    }


def current(windows: BarWindows) -> NDArray[np.int64]:
    """The newest window of every symbol that still has bars near the newest date of all."""
    rows, _ = windows.newest()
    dates = np.unique(windows.asof[rows])
    last = windows.asof[rows].max() if len(rows) else None
    if last is None:
        return rows
    # a symbol that ended years ago has no forecast of interest
    near = last - np.timedelta64(10, "D") if len(dates) > 1 else last
    recent: NDArray[np.int64] = rows[windows.asof[rows] >= near]
    return recent


def _text(time: np.datetime64) -> str:
    return str(time)[:16].removesuffix("T00:00")


def _series_start(windows: BarWindows, end: int) -> int:
    offsets = windows.bars.offsets
    return int(offsets[np.searchsorted(offsets, end, side="right") - 1])


def _past(windows: BarWindows, place: int) -> tuple[list[float | None], list[float | None]]:
    """10% and 90% quantiles of the symbol's own past returns over each horizon."""
    end = int(windows.end[place])
    begin = max(end - PAST_BARS, _series_start(windows, end))
    close = windows.bars.ohlcv[begin : end + 1, CLOSE]
    low: list[float | None] = []
    high: list[float | None] = []
    for horizon in windows.horizons:
        returns = close[horizon:] / close[:-horizon] - 1 if horizon < len(close) else np.empty(0)
        known = len(returns) >= FEWEST_RETURNS
        ends = np.quantile(returns, SHARES).round(6).tolist() if known else [None, None]
        low.append(ends[0])
        high.append(ends[1])
    return low, high


def forecast_frame(
    windows: Windows,
    found: Forecast,
    cutoff: NDArray[np.float64] | None,
    is_return: bool = True,
    interval: NDArray[np.float64] | None = None,
) -> pl.DataFrame:
    """`symbol date horizon ret up_prob uncertainty confident score rank`, a row per window and horizon.

    score: the forecast in units of the target; rank: of the score among the windows of its day and horizon,
    1 is the highest; ret in raw units. What is not known (ret where the target is no return, uncertainty
    without views, confident without a cut-off) is null.
    cutoff: (H,) the margin above which a forecast is confident
    interval: (k, H, 2) ends of the 80% interval in units of the target, the columns `ret_p10 ret_p90`
    """
    horizons = len(windows.horizons)
    uncertainty: Sequence[float | None] = [None] * found.ret.size
    confident: Sequence[bool | None] = [None] * found.ret.size
    if found.uncertainty is not None:
        uncertainty = found.uncertainty.ravel().tolist()
    if cutoff is not None:
        confident = (margin(found.up_prob) > cutoff).ravel().tolist()
    frame = pl.DataFrame(
        {
            "symbol": np.repeat(np.array(windows.symbols)[windows.symbol], horizons),
            "date": np.repeat(dates_of(windows.asof), horizons),
            "horizon": np.tile(np.array(windows.horizons, np.int64), len(windows)),
            "ret": pl.Series(found.ret.ravel() if is_return else [None] * found.ret.size, dtype=pl.Float64),
            "up_prob": found.up_prob.ravel(),
            "uncertainty": pl.Series(uncertainty, dtype=pl.Float64),
            "confident": pl.Series(confident, dtype=pl.Boolean),
            "score": found.ret.ravel(),
            **({} if interval is None else _columns(interval)),
        }
    )
    day = pl.col("date").dt.date()
    return frame.with_columns(pl.col("score").rank("min", descending=True).over(day, "horizon").alias("rank"))


def _columns(interval: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {name: interval[..., end].ravel() for end, name in enumerate(("ret_p10", "ret_p90"))}


def quantile_interval(
    trained: Trained,
    net: nn.Module,
    ready: ReadyWindows,
    rows: NDArray[np.int64],
    fitted: Fitted,
    console: Console,
) -> NDArray[np.float64] | None:
    """(k, H, 2) of the windows without views, for which it was widened; None without quantiles."""
    levels, conformal = trained.quantile_levels, trained.conformal()
    if not has_interval(levels):
        return None
    if conformal is None:
        why = "an older version trained the run" if trained.held_out else "the run held nothing out"
        console.print(f"ret_p10 and ret_p90 are unknown: {why}")
        return None
    quantiles = predict(net, ready, rows, fitted).quantiles
    assert quantiles is not None
    return conformal.interval(quantiles, levels)


def confident_margin(trained: Trained, coverage: float, console: Console) -> NDArray[np.float64] | None:
    """(H,) the margin above which a forecast is confident; None where the run has none, with a line."""
    found = trained.confidence()
    if found is None:
        why = "an older version trained the run, and it kept no margins"
        if "val" not in trained.run.split.parts:
            why = "the run held nothing out to take a cut-off from"
        console.print(f"confident is unknown: {why}")
        return None
    return found.cutoff(coverage)
