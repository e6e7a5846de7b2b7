"""Daily cross-sectional information coefficients: whether the symbols forecast to do better than others do.

Legend: n rows (one symbol at one date), D dates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, bartlett_critical, block_of, ratio

FEWEST_SYMBOLS = 3  # of two symbols every correlation is 1 or -1
FREEDOM = 1.5  # degrees of freedom of a variance with Bartlett weights over a share b of the dates, times b
PANEL_SYMBOLS = 5  # with fewer the correlation of a date is mostly noise
NAMES = ("mean", "low", "high", "std", "icir", "t", "critical", "p", "lag")


@dataclass(frozen=True)
class DailyIC:
    """(D,) Pearson's and Spearman's correlation of signal and return at each date; NaN where undefined."""

    ic: Floats
    rank_ic: Floats


def daily_ic(signal: Floats, y_ret: Floats, date: NDArray[np.int64], dates: int) -> DailyIC:
    """Correlations over the symbols of a date; arrays are (n,), date is the index of each row's date.

    Undefined on a date with fewer than 3 symbols, or where the signal or the return is the same for all.
    """
    names = ("signal", "y_ret")
    rows = pl.DataFrame({"date": date, "signal": signal, "y_ret": y_ret}).cast({"date": pl.Int64})
    rows = rows.with_columns(pl.col(name).rank().over("date").alias(f"{name}_rank") for name in names)
    # what rounding leaves of equal values is no spread
    spread = (pl.col(name).var(0) > 1e-20 * pl.col(name).pow(2).mean() for name in names)
    rank_spread = (pl.col(name).n_unique() > 1 for name in names)
    enough = pl.len() >= FEWEST_SYMBOLS
    found = rows.group_by("date").agg(
        pl.when(enough, *spread).then(pl.corr("signal", "y_ret")).alias("ic"),
        pl.when(enough, *rank_spread).then(pl.corr("signal_rank", "y_ret_rank")).alias("rank_ic"),
    )
    ic, rank_ic = np.full((2, dates), np.nan)
    place = found["date"].to_numpy()
    ic[place], rank_ic[place] = (found[name].fill_null(np.nan).to_numpy() for name in ("ic", "rank_ic"))
    return DailyIC(ic, rank_ic)


def daily_rank_ics(signals: Floats, y_ret: Floats, date: NDArray[np.int64], dates: int) -> Floats:
    """(k, D) the `rank_ic` of `daily_ic` of k signals (n, k) of the same rows."""
    names = [f"signal{column}" for column in range(signals.shape[1])]
    rows = pl.DataFrame({"date": date, "y_ret": y_ret, **dict(zip(names, signals.T, strict=True))})
    of_date = pl.col("y_ret", *names).rank().over("date")
    differ, enough = pl.col("y_ret").n_unique() > 1, pl.len() >= FEWEST_SYMBOLS
    by_date = rows.select(pl.col("date").cast(pl.Int64), of_date).group_by("date")
    coefficients = by_date.agg(
        pl.when(enough, differ, pl.col(name).n_unique() > 1).then(pl.corr(name, "y_ret")) for name in names
    )
    found = np.full((len(names), dates), np.nan)
    found[:, coefficients["date"].to_numpy()] = (
        coefficients.select(pl.nth(range(1, len(names) + 1)).fill_null(np.nan)).to_numpy().T
    )
    return found


def best_rank_ic(
    best_score: Floats, y_ret: Floats, date: NDArray[np.int64], dates: int
) -> NDArray[np.float64]:
    """(D,) rank IC of the best possible forecast; 0 where it ranks no symbol above another.

    Arrays as in `daily_ic`; NaN on a date with fewer than 3 symbols, or where the return is the same for all.
    """
    found, of_returns = (daily_ic(of, y_ret, date, dates).rank_ic for of in (best_score, y_ret))
    return np.where(np.isfinite(of_returns), np.nan_to_num(found), np.nan)


def ic_figures(
    coefficients: Floats, horizon: int, draws: BlockBootstrap | None
) -> dict[str, float | int | None]:
    """`mean low high std icir t critical p lag dates` of daily coefficients (D,), NaN where there is none.

    low, high: 95% by moving-block bootstrap; icir: mean / std, per day and not annualised; t: of the mean, by
    Newey and West (1987), with `lag`; critical: what |t| exceeds in 5% of cases without skill, see
    `bartlett_critical`; p: two-sided, see `p_of_t`. All but dates are None where fewer than two dates have
    one.
    """
    known = np.isfinite(coefficients)
    values = coefficients[known]
    found: dict[str, float | int | None] = dict.fromkeys(NAMES)
    found["dates"] = len(values)
    if len(values) < 2:
        return found
    mean, std = float(values.mean()), float(values.std(ddof=1))
    bandwidth = min(block_of(horizon), len(values))
    lag = bandwidth - 1
    found |= {"mean": mean, "std": std, "icir": mean / std if std > 0 else None, "lag": lag}
    t, share = newey_west_t(values, lag), bandwidth / len(values)
    found |= {"t": t, "critical": bartlett_critical(share), "p": None if t is None else p_of_t(t, share)}
    if draws is not None:
        total, count = draws.sums(np.stack([np.where(known, coefficients, 0), known.astype(np.float64)]))
        found["low"], found["high"] = draws.interval(mean, ratio(total, count), (-1.0, 1.0))
    return found


def newey_west_t(values: Floats, lag: int) -> float | None:
    """t of a mean with Bartlett weights on `lag` autocovariances (Newey and West 1987), the divisor T; None
    where the variance is 0."""
    error = newey_west_error(values - values.mean(), lag, len(values))
    return None if error is None else float(values.mean()) / error


def newey_west_error(centred: Floats, lag: int, count: int) -> float | None:
    """Standard error of the mean of `count` values, which are `centred` (D,) less their mean and 0 at dates
    without one (Parzen 1963); None where the variance is 0."""
    variance = centred @ centred / count
    for k in range(1, lag + 1):
        variance += 2 * (1 - k / (lag + 1)) * (centred[k:] @ centred[:-k]) / count
    return float(np.sqrt(variance / count)) if variance > 1e-30 else None


def p_of_t(t: float, share: float) -> float:
    """Two-sided p-value of a t with Bartlett weights over this share of the dates: 5% at `bartlett_critical`,
    elsewhere with the tails of Student's t, which has few degrees of freedom where the share is large."""
    from scipy.special import stdtr, stdtrit  # slow to import

    freedom = FREEDOM / share
    return float(2 * stdtr(freedom, -abs(t) * stdtrit(freedom, 0.975) / bartlett_critical(share)))


def hac_mean(coefficients: Floats, horizon: int) -> dict[str, float | int | None]:
    """`mean low high dates` of daily coefficients (D,), NaN where there is none, as of one part of the dates.

    low, high: 95% by Newey and West's error, with the lag and the critical value of `ic_figures`; None where
    the values don't fill two bandwidths.
    """
    known = np.isfinite(coefficients)
    count, bandwidth = int(known.sum()), block_of(horizon)
    found: dict[str, float | int | None] = {"mean": None, "low": None, "high": None, "dates": count}
    if not count:
        return found
    mean = float(coefficients[known].mean())
    found["mean"] = mean
    if count >= 2 * bandwidth:
        error = newey_west_error(np.where(known, coefficients - mean, 0.0), bandwidth - 1, count)
        half = bartlett_critical(bandwidth / count) * (error or 0.0)
        found |= {"low": max(mean - half, -1.0), "high": min(mean + half, 1.0)}
    return found
