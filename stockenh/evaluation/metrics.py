"""Scores of forecasts on one part of the data, with intervals that respect overlapping labels.

Legend: n rows (one symbol at one date), H horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, interval, ratio

Metrics = dict[str, float | int | None]
Floats = NDArray[np.floating]

PROBABILITY_FLOOR = 1e-7


def part_metrics(
    ret: Floats,
    up_prob: Floats,
    y_ret: Floats,
    dates: NDArray[np.generic],
    horizons: Sequence[int],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Metrics]:
    """Scores per horizon, as {"h3": {...}, ...}; see horizon_metrics.

    ret, up_prob and y_ret are (n, H), dates is (n,). The bootstrap's blocks are as long as the largest
    horizon. Raises ValueError where there are not as many columns as horizons.
    """
    columns = zip(horizons, ret.T, up_prob.T, y_ret.T, strict=True)
    return {
        f"h{horizon}": horizon_metrics(r, p, y, dates, block=max(horizons), seed=seed, resamples=resamples)
        for horizon, r, p, y in columns
    }


def horizon_metrics(
    ret: Floats,
    up_prob: Floats,
    y_ret: Floats,
    dates: NDArray[np.generic],
    *,
    block: int,
    seed: int = 0,
    resamples: int = 1000,
) -> Metrics:
    """Scores of one horizon; all arrays are (n,), returns in raw units. Rows whose label is NaN are left out.

    n, ties, tie_share:  labelled rows, those whose return is exactly 0, and their share
    accuracy, auc:       of direction, ties left out; "up" is forecast above a probability of 0.5, not at it
    majority:            share of the larger class among the rows that accuracy counts
    log_loss, brier:     against y_ret > 0 on all n rows; the log loss clips probabilities to [1e-7, 1 - 1e-7]
    mae:                 mean absolute error of ret
    accuracy_low, _high: see accuracy_interval; None with resamples=0, which is what a training loop wants

    A figure that the rows don't define, or that a forecast of NaN spoils, is None.
    """
    labelled = ~np.isnan(y_ret)
    ret, y_ret = ret[labelled].astype(np.float64), y_ret[labelled].astype(np.float64)
    up_prob, dates = up_prob[labelled].astype(np.float64), dates[labelled]
    n, ties = len(y_ret), int((y_ret == 0).sum())
    moved, up = y_ret != 0, y_ret > 0
    up_share = up[moved].mean() if moved.any() else np.nan
    low, high = accuracy_interval(up_prob, y_ret, dates, block=block, seed=seed, resamples=resamples)
    return {
        "n": n,
        "ties": ties,
        "tie_share": _mean(~moved),
        "accuracy": _mean(_hits(up_prob, y_ret)[moved]),
        "accuracy_low": low,
        "accuracy_high": high,
        "majority": _defined(max(up_share, 1 - up_share)),
        "log_loss": _mean(log_losses(up_prob, up)),
        "brier": _mean(np.square(up_prob - up)),
        "auc": _auc(up_prob[moved], up[moved]),
        "mae": _mean(np.abs(ret - y_ret)),
    }


def accuracy_interval(
    up_prob: Floats,
    y_ret: Floats,
    dates: NDArray[np.generic],
    *,
    block: int,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float | None, float | None]:
    """95% interval of accuracy by moving-block bootstrap over dates, see `BlockBootstrap`; arrays are (n,).

    Ties are left out. Both ends are None where the dates don't fill two blocks, no row counts, a probability
    is NaN or resamples is 0.
    """
    distinct, date_of_row = np.unique(dates, return_inverse=True)
    length = len(distinct)
    hits, counted = _hits(up_prob, y_ret), y_ret != 0
    draws = BlockBootstrap.draw(length, block, resamples, seed)
    if draws is None or not counted.any() or np.isnan(hits[counted]).any():
        return None, None
    per_date = np.stack(
        [
            np.bincount(date_of_row[counted], weights=hits[counted], minlength=length),
            np.bincount(date_of_row[counted], minlength=length).astype(np.float64),
        ]
    )
    correct, total = draws.sums(per_date)
    return interval(ratio(correct, total))


def _hits(up_prob: Floats, y_ret: Floats) -> NDArray[np.float64]:
    """(n,) 1 where the forecast direction is right, else 0; NaN where the probability is."""
    return np.where(np.isnan(up_prob), np.nan, (up_prob > 0.5) == (y_ret > 0))


def log_losses(up_prob: Floats, up: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) of forecasts clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(up_prob, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -np.log(np.where(up, clipped, 1 - clipped))


def _auc(up_prob: Floats, up: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve from the rank sum (Mann and Whitney 1947); None with one class."""
    positives = int(up.sum())
    negatives = len(up) - positives
    if positives == 0 or negatives == 0 or np.isnan(up_prob).any():
        return None
    rank_sum = _ranks(up_prob)[up].sum()
    return _defined((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def _ranks(values: Floats) -> NDArray[np.float64]:
    """(n,) ranks from 1, equal values sharing the mean of theirs (scipy.stats takes 0.9 s to import)."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = np.cumsum(count) - (count - 1) / 2
    return middle[place]


def _mean(values: NDArray[np.bool_] | Floats) -> float | None:
    return _defined(np.mean(values)) if len(values) else None


def _defined(value: float | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


# Below a point between majority and limit, the share of it that a model closes is sampling noise.
SMALLEST_GAP = 0.01


def with_limits(scores: Mapping[str, Metrics], best_prob: Floats, y_ret: Floats) -> dict[str, Metrics]:
    """The scores of each horizon with its limits beside them; best_prob and y_ret are (n, H)."""
    columns = zip(scores.items(), best_prob.T, y_ret.T, strict=True)
    return {horizon: {**of, **limit_metrics(of, p, y)} for (horizon, of), p, y in columns}


def limit_metrics(scores: Metrics, best_prob: Floats, y_ret: Floats) -> Metrics:
    """The limits of one horizon on the rows that its scores count; best_prob and y_ret are (n,).

    limit_accuracy: expected accuracy of the best forecast, the mean of max(p, 1 - p) without ties
    limit_log_loss: its expected log loss, the mean entropy of p
    gap_closed:     (accuracy - majority) / (limit_accuracy - majority)

    None where no row counts, and the last also where majority is within a point of the limit or above it.
    """
    labelled = ~np.isnan(y_ret)
    p, moved = best_prob[labelled].astype(np.float64), y_ret[labelled] != 0
    sure = np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    entropy = -sure * np.log(sure) - (1 - sure) * np.log(1 - sure)
    limit = float(np.maximum(p, 1 - p)[moved].mean()) if moved.any() else None
    return {
        "limit_accuracy": limit,
        "limit_log_loss": float(entropy.mean()) if len(p) else None,
        "gap_closed": _share(scores["accuracy"], scores["majority"], limit),
    }


def _share(accuracy: float | None, majority: float | None, limit: float | None) -> float | None:
    if accuracy is None or majority is None or limit is None or limit - majority < SMALLEST_GAP:
        return None
    return (accuracy - majority) / (limit - majority)
