"""Scores of forecasts as sums over dates, so that differences can be paired by date.

A score is a mean over rows or, as the AUC, close to one: to first order it changes with the dates that are
drawn as the sum of their shares does.

Legend: n rows (one symbol at one date), D dates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.metrics import log_losses
from stockenh.inference.calibration import bins_of


def shares(
    up_prob: NDArray[np.floating], y_ret: NDArray[np.floating], date: NDArray[np.int64]
) -> dict[str, Floats]:
    """`accuracy majority log_loss auc ece`, each (D,) with the score as its sum; see `horizon_metrics`.

    Arrays are (n,), all finite but labels; the index `date` may be of more dates than have labelled rows, and
    D is of those. Rows without a label and returns of exactly 0 are left out; without rows D is 0. The AUC of
    one class is NaN. ECE: the bins as they are, each too high or too low as it is.
    """
    counted = np.isfinite(y_ret) & (y_ret != 0)
    labelled, day = np.unique(date[np.isfinite(y_ret)], return_inverse=True)
    moved = counted[np.isfinite(y_ret)]
    day, p, up = day[moved], up_prob[counted].astype(np.float64), y_ret[counted] > 0
    if not len(p):
        return {}
    terms = {
        "accuracy": ((p > 0.5) == up).astype(np.float64),
        "majority": (up == (up.mean() > 0.5)).astype(np.float64),
        "log_loss": log_losses(p, up),
        "ece": _bin_errors(p, up),
    }
    found = {name: _of_dates(values, day, len(labelled)) for name, values in terms.items()}
    return {**found, "auc": _auc(p, up, day, len(labelled))}


def limit_shares(
    best_prob: NDArray[np.floating], y_ret: NDArray[np.floating], date: NDArray[np.int64]
) -> Floats:
    """(D,) shares of the expected accuracy of the best possible forecast; see `shares`."""
    right = np.maximum(best_prob, 1 - best_prob).astype(np.float64)
    counted = np.isfinite(y_ret) & (y_ret != 0)
    labelled = np.unique(date[np.isfinite(y_ret)])
    return _of_dates(right[counted], np.searchsorted(labelled, date[counted]), len(labelled))


def stacked(seeds: list[Mapping[str, Floats]], name: str) -> Floats | None:
    """(S, D) shares of one score; None where a seed has none or it is undefined."""
    tables = [seed.get(name) for seed in seeds]
    known = [table for table in tables if table is not None and np.isfinite(table).all()]
    return np.stack(known) if known and len(known) == len(tables) else None


def _of_dates(values: Floats, day: NDArray[np.int64], dates: int) -> Floats:
    """The mean of (n,) values as a sum over dates: of each date what its rows are above the mean, and an even
    part of the mean."""
    mean = values.mean()
    found: Floats = np.bincount(day, values - mean, minlength=dates) / len(values) + mean / dates
    return found


def _bin_errors(p: Floats, up: NDArray[np.bool_]) -> Floats:
    """(n,) what each row adds to the expected calibration error, by the sign of its bin's error."""
    place = bins_of(p)
    error = p - up
    sign: Floats = np.sign(np.bincount(place, error))
    return sign[place] * error


def _auc(score: Floats, up: NDArray[np.bool_], day: NDArray[np.int64], dates: int) -> Floats:
    """(D,) of the AUC: of each rise the share of falls that it beats, and of each fall the reverse (DeLong,
    DeLong and Clarke-Pearson 1988)."""
    rises, falls = np.sort(score[up]), np.sort(score[~up])
    if not len(rises) or not len(falls):
        return np.full(dates, np.nan)

    def below(sorted_scores: Floats, of: Floats) -> Floats:
        ends = [np.searchsorted(sorted_scores, of, side) for side in ("left", "right")]
        found: Floats = (ends[0] + ends[1]) / (2 * len(sorted_scores))
        return found

    won, lost = below(falls, score[up]), 1 - below(rises, score[~up])
    area = won.mean()
    found: Floats = (
        np.bincount(day[up], won - area, minlength=dates) / len(rises)
        + np.bincount(day[~up], lost - area, minlength=dates) / len(falls)
        + area / dates
    )
    return found
