"""What a forecast of direction would have earned from bar to bar after costs, beside holding all symbols.

Legend: n rows (one symbol at one date), D dates, S symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, ratio

HOLD = "hold"
YEAR = np.timedelta64(8766, "h")  # 365.25 days


@dataclass(frozen=True)
class Curve:
    """One strategy on D dates: each entry is decided at that close and earned from its trade to the next.

    net, gross: (D,) returns after and before costs; turnover: (D,) traded value as a share of wealth
    """

    net: Floats
    gross: Floats
    turnover: Floats


def next_bar_curves(
    asof: NDArray[np.datetime64], symbol: NDArray[np.str_], prob: Floats, next_ret: Floats, cost_bps: float
) -> tuple[NDArray[np.datetime64], dict[str, Curve]]:
    """Dates (D,), and the curves `long/flat`, `long/short` and `hold` of n rows with a next bar.

    asof, symbol, prob, next_ret: (n,) time of decision, name, probability of up, return from its trade to the
    next decision's, or NaN
    """
    known = np.isfinite(next_ret)
    days, date = np.unique(asof[known], return_inverse=True)
    symbols, number = np.unique(symbol[known], return_inverse=True)
    up_prob, returns = np.full((len(days), len(symbols)), 0.5), np.zeros((len(days), len(symbols)))
    present = np.zeros(returns.shape, np.bool_)
    up_prob[date, number], returns[date, number], present[date, number] = prob[known], next_ret[known], True
    return days, {
        "long/flat": trade(positions(up_prob, present, short=False), returns, cost_bps),
        "long/short": trade(positions(up_prob, present, short=True), returns, cost_bps),
        HOLD: hold(present, returns, cost_bps),
    }


def rank_weighted_returns(signal: Floats, next_ret: Floats, date: NDArray[np.int64], dates: int) -> Floats:
    """(D,) return of a position of 1 in the symbols that rank above the day's middle and of -1 in the others.

    Arrays are (n,); within a side weights are proportional to the distance from the middle rank. 0 where the
    signal ranks no symbol above another; NaN on a date with fewer than two symbols. A row without a next
    return (NaN) does not count.
    """
    known = np.isfinite(next_ret)
    rows = pl.DataFrame({"date": date[known], "signal": signal[known], "ret": next_ret[known]})
    ranked = rows.with_columns(pl.col("signal").rank().over("date").alias("rank"))
    # in two steps: older versions of polars allow no window within a window
    weighed = ranked.with_columns((pl.col("rank") - pl.col("rank").mean().over("date")).alias("weight"))
    gross = pl.col("weight").abs().sum()
    found = weighed.group_by("date").agg(
        pl.when(pl.len() >= 2)
        .then(pl.when(gross > 0).then(2 * (pl.col("weight") * pl.col("ret")).sum() / gross).otherwise(0.0))
        .alias("return")
    )
    returns = np.full(dates, np.nan)
    returns[found["date"].to_numpy()] = found["return"].fill_null(np.nan).to_numpy()
    return returns


def strategy_figures(
    curves: Mapping[str, Curve], days: NDArray[np.datetime64], draws: BlockBootstrap | None
) -> dict[str, dict[str, Any]]:
    """`curve_figures` of each, and `above_hold`: its `excess_figures` to holding."""
    return {
        name: {
            **curve_figures(curve, days, draws),
            "above_hold": None if name == HOLD else excess_figures(curve, curves[HOLD], days, draws),
        }
        for name, curve in curves.items()
    }


def trade(wanted: Floats, returns: Floats, cost_bps: float) -> Curve:
    """Holds the weights `wanted` (D, S) from each trade to the next; what is traded for them costs.

    returns: (D, S) from one trade to the next. Weights drift with prices until then, and every basis
    point of traded value costs `cost_bps` / 10,000 of it, on the first day too. What is not invested earns 0,
    being short costs no more than being long, and the last position is not closed.
    """
    dates, symbols = wanted.shape
    held = np.zeros(symbols)
    turnover, gross = np.empty(dates), np.empty(dates)
    for day in range(dates):
        turnover[day] = np.abs(wanted[day] - held).sum()
        gross[day] = wanted[day] @ returns[day]
        held = wanted[day] * (1 + returns[day]) / max(1 + gross[day], 1e-12)
    return Curve(gross - turnover * cost_bps / 1e4, gross, turnover)


def hold(present: NDArray[np.bool_], returns: Floats, cost_bps: float) -> Curve:
    """Buys every symbol once with an equal share and keeps it; present: (D, S) symbols with a next bar.

    A symbol that comes later gets 1 / (symbols present), out of the others; one that goes is sold into them.
    """
    wanted = np.zeros(returns.shape)
    held = np.zeros(returns.shape[1])
    for day, here in enumerate(present):
        fresh = here & (held == 0)
        kept = np.where(here & ~fresh, held, 0.0)
        share = 1.0 / max(int(here.sum()), 1)
        left = 1.0 - share * fresh.sum()
        wanted[day] = np.where(fresh, share, kept * (left / kept.sum() if kept.sum() > 0 else 0.0))
        grown = wanted[day] * (1 + returns[day])
        held = grown / max(grown.sum(), 1e-12)
    return trade(wanted, returns, cost_bps)


def positions(prob: Floats, present: NDArray[np.bool_], short: bool) -> Floats:
    """(D, S) weights: an equal share of wealth for each symbol of the day, long above a probability of 0.5,
    below it short or flat; prob and present are (D, S)."""
    side = np.sign(prob - 0.5) if short else prob > 0.5
    count = np.maximum(present.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.where(present, side, 0.0) / count)


def curve_figures(
    curve: Curve, dates: NDArray[np.datetime64], draws: BlockBootstrap | None
) -> dict[str, float | None]:
    """`total annual volatility sharpe sharpe_low sharpe_high drawdown turnover gross_total` of a curve.

    total, gross_total: growth over all dates; annual: as a rate per year; volatility, sharpe: annualised, of
    simple returns, without interest; drawdown: the largest loss from a peak, below 0; turnover:
    mean traded share of wealth per bar. Undefined figures are None.
    """
    per_year = bars_per_year(dates)
    wealth = np.cumprod(1 + curve.net)
    peak = np.maximum.accumulate(np.concatenate([[1.0], wealth]))[1:]
    mean, std = float(curve.net.mean()), float(curve.net.std(ddof=1)) if len(curve.net) > 1 else 0.0
    found: dict[str, float | None] = {
        "total": float(wealth[-1] - 1),
        "annual": float(max(wealth[-1], 0.0) ** (per_year / len(wealth)) - 1),
        "volatility": std * per_year**0.5,
        "sharpe": mean / std * per_year**0.5 if std > 1e-12 else None,
        "sharpe_low": None,
        "sharpe_high": None,
        "drawdown": float((wealth / peak - 1).min()),
        "turnover": float(curve.turnover.mean()),
        "gross_total": float(np.prod(1 + curve.gross) - 1),
    }
    if draws is not None and found["sharpe"] is not None:
        count = len(curve.net)
        total, square = draws.sums(np.stack([curve.net, np.square(curve.net)]))
        spread = np.sqrt(np.maximum(square - total**2 / count, 0) / (count - 1))
        resampled = ratio(total / count, spread) * per_year**0.5
        found["sharpe_low"], found["sharpe_high"] = draws.interval(found["sharpe"], resampled)
    return found


def excess_figures(
    curve: Curve, other: Curve, dates: NDArray[np.datetime64], draws: BlockBootstrap | None
) -> dict[str, float | None]:
    """`mean low high` of the yearly difference of mean returns to another curve of the same dates."""
    per_year = bars_per_year(dates)
    difference = curve.net - other.net
    mean, low, high = float(difference.mean()) * per_year, None, None
    if draws is not None:
        low, high = draws.interval(mean, draws.sums(difference[None])[0] / len(difference) * per_year)
    return {"mean": mean, "low": low, "high": high}


def bars_per_year(dates: NDArray[np.datetime64]) -> float:
    """Bars in a year as these dates have them; 252 where they span less than a month."""
    span = (dates[-1] - dates[0]) / YEAR
    return float((len(dates) - 1) / span) if span > 1 / 12 else 252.0
