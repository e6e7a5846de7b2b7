"""What forecasts turned out to be worth, beside what was promised.

Legend: n forecasts of one horizon, D dates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import Floats, Resampling
from stockenh.evaluation.ic import PANEL_SYMBOLS, daily_ic, hac_mean
from stockenh.evaluation.metrics import horizon_metrics
from stockenh.inference.calibration import expected_calibration_error

Found = dict[str, Any]

KEPT = ("accuracy", "accuracy_low", "accuracy_high", "majority", "log_loss")


def realised(
    up_prob: Floats,
    score: Floats,
    returns: Floats,
    relative: NDArray[np.bool_],
    asof: NDArray[np.datetime64],
    interval: NDArray[np.float64],
    horizon: int,
    resampling: Resampling,
) -> Found:
    """Scores of n forecasts whose returns are known; None where a figure is not defined.

    returns: simple, of so many bars; relative: whether up is above the median of the date, taken over these
    forecasts; interval: (n, 2) ends of the 80% interval, NaN without.
    rank_ic: over the symbols of a date, of dates with five or more; coverage: share of returns within the
    interval.
    """
    days, day = np.unique(asof, return_inverse=True)
    side = returns - np.where(relative, _medians(returns, day, len(days))[day], 0.0)
    zeros = np.zeros(len(returns))
    found: Found = dict(horizon_metrics(zeros, up_prob, side, asof, (horizon,), resampling))
    wide = np.bincount(day, minlength=len(days)) >= PANEL_SYMBOLS
    daily = np.where(wide, daily_ic(score, returns, day, len(days)).rank_ic, np.nan)
    rank = hac_mean(daily, horizon)
    losses = _daily_losses(up_prob, side, day, len(days))
    loss = _mean_interval(losses, horizon)
    has_interval = np.isfinite(interval).all(axis=1)
    inside = (interval[:, 0] <= returns) & (returns <= interval[:, 1])
    ece = expected_calibration_error(up_prob, side)
    return {
        **{name: found[name] for name in KEPT}, "n": len(returns), "dates": len(days),
        "log_loss_low": loss[0], "log_loss_high": loss[1], "ece": ece, "rank_ic": rank["mean"],
        "rank_ic_low": rank["low"], "rank_ic_high": rank["high"], "rank_ic_dates": rank["dates"],
        "coverage": float(inside[has_interval].mean()) if has_interval.any() else None,
    }  # fmt: skip


def beyond_chance(found: Mapping[str, Any], promised: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(figure, realised, promised) of those that differ by more than both intervals allow.

    promised: `rank_ic accuracy` with `_low` and `_high`, and `log_loss`, which has no interval of its own.
    """
    differ = []
    for name in ("rank_ic", "accuracy", "log_loss"):
        was, promise = found.get(name), promised.get(name)
        halves = [_half(found, name), _half(promised, name) if name != "log_loss" else 0.0]
        if was is None or promise is None or None in halves:
            continue
        if abs(was - promise) > math.hypot(*(half for half in halves if half is not None)):
            differ.append((name, float(was), float(promise)))
    return differ


def _half(figures: Mapping[str, Any], name: str) -> float | None:
    """Half the width of a figure's interval; None without one."""
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return None if low is None or high is None else (high - low) / 2


def _medians(returns: Floats, day: NDArray[np.int64], days: int) -> Floats:
    order = np.argsort(day, kind="stable")
    parts = np.split(returns[order], np.searchsorted(day[order], np.arange(1, days)))
    return np.array([np.median(part) for part in parts])


def _daily_losses(up_prob: Floats, side: Floats, day: NDArray[np.int64], days: int) -> Floats:
    """(D,) mean log loss of each date; NaN where no return differs from 0."""
    moved = side != 0
    clipped = np.clip(up_prob[moved], 1e-7, 1 - 1e-7)
    loss = -np.log(np.where(side[moved] > 0, clipped, 1 - clipped))
    total, count = np.bincount(day[moved], loss, days), np.bincount(day[moved], minlength=days)
    found: Floats = np.divide(total, count, out=np.full(days, np.nan), where=count > 0)
    return found


def _mean_interval(daily: Floats, horizon: int) -> tuple[float | None, float | None]:
    """95% of the mean of daily values, by Newey and West's error."""
    # shifted to around 0, where the interval of a coefficient is not cut at 1
    known = daily[np.isfinite(daily)]
    if not len(known):
        return None, None
    centre = float(known.mean())
    found = hac_mean(daily - centre, horizon)
    low, high = found["low"], found["high"]
    return (None, None) if low is None or high is None else (centre + low, centre + high)
