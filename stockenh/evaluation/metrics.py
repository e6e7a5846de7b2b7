"""Scores of forecasts on one part of the data, with intervals that respect overlapping labels.

Every score is a function of sums over dates, so that a resampled score costs a few additions.

Legend: n rows (one symbol at one date), H horizons, D dates, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import (
    BlockBootstrap,
    Floats,
    Resampling,
    auc_of_draws,
    pair_counts,
    ratio,
)
from stockenh.inference.calibration import expected_calibration_error

Metrics = dict[str, float | int | None]

PROBABILITY_FLOOR = 1e-7
SMALLEST_GAP = 0.01  # between majority and limit; below it the share that a model closes is noise
FIGURES = ("accuracy", "balanced_accuracy", "mcc", "auc", "log_loss", "brier", "ece", "mae", "r2")
# ECE has no interval: noise alone raises it, and resampling raises it again.
WITH_INTERVAL = tuple(name for name in FIGURES if name != "ece")
LOWER_IS_BETTER = ("log_loss", "brier", "mae")
SHARE = (0.0, 1.0)
RANGES = {
    "accuracy": SHARE, "balanced_accuracy": SHARE, "auc": SHARE, "brier": SHARE, "mcc": (-1.0, 1.0),
    "log_loss": (0.0, np.inf), "mae": (0.0, np.inf), "r2": (-np.inf, 1.0),
}  # fmt: skip
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Forecast:
    """The forecasts of n rows at one horizon.

    score:  (n,) up above 0.5, not at it; its order makes the AUC
    prob:   (n,) probability of up, for log loss, Brier and ECE; None where there is none
    ret:    (n,) return in raw units, for MAE and R2; None where there is none
    signal: (n,) what the cross-sectional IC ranks symbols by; None where it is the same for all
    """

    score: Floats
    prob: Floats | None = None
    ret: Floats | None = None
    signal: Floats | None = None

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Forecast:
        """The forecasts of these rows only."""
        prob, ret, signal = (None if x is None else x[rows] for x in (self.prob, self.ret, self.signal))
        return Forecast(self.score[rows], prob, ret, signal)


@dataclass(frozen=True)
class Scored:
    """Figures of one forecaster: `observed`, and `resampled` for every draw (R,); NaN where undefined.

    draws: None without intervals, where nothing is resampled
    """

    observed: dict[str, float]
    resampled: dict[str, Floats]
    draws: BlockBootstrap | None

    def figures(self) -> dict[str, float | None]:
        """`accuracy accuracy_low accuracy_high ...`: each figure with its 95% interval; None: undefined."""
        found: dict[str, float | None] = {}
        for name in FIGURES:
            found[name] = defined(self.observed[name])
            if name in WITH_INTERVAL:
                ends: tuple[float | None, float | None] = None, None
                if self.draws is not None:
                    ends = self.draws.interval(self.observed[name], self.resampled[name], RANGES[name])
                found[f"{name}_low"], found[f"{name}_high"] = ends
        return found

    def minus(self, other: Scored) -> dict[str, dict[str, float | None]]:
        """This minus the other on the same draws: `difference low high p` of each figure.

        p: one-sided, of this being no better than the other; None without draws.
        """
        found: dict[str, dict[str, float | None]] = {}
        for name in WITH_INTERVAL:
            difference = self.observed[name] - other.observed[name]
            low = high = p = None
            if self.draws is not None:
                resampled = self.resampled[name] - other.resampled[name]
                low, high = self.draws.interval(difference, resampled)
                sign = -1 if name in LOWER_IS_BETTER else 1
                p = self.draws.p_above_zero(sign * difference, sign * resampled)
            found[name] = {"difference": defined(difference), "low": low, "high": high, "p": p}
        return found


def part_metrics(
    ret: NDArray[np.floating],
    up_prob: NDArray[np.floating],
    y_ret: NDArray[np.floating],
    dates: NDArray[np.generic],
    horizons: Sequence[int],
    resampling: Resampling | None,
    y_dir: NDArray[np.floating] | None = None,
) -> dict[str, Metrics]:
    """Scores per horizon, as {"h3": {...}, ...}; see `horizon_metrics`.

    ret, up_prob, y_ret and y_dir are (n, H), dates is (n,); resampling: None leaves intervals out. Raises
    ValueError where there are not as many columns as horizons.
    """
    columns = zip(horizons, ret.T, up_prob.T, y_ret.T, (y_ret if y_dir is None else y_dir).T, strict=True)
    return {
        f"h{horizon}": horizon_metrics(r, p, y, dates, horizons, resampling, d)
        for horizon, r, p, y, d in columns
    }


def horizon_metrics(
    ret: NDArray[np.floating],
    up_prob: NDArray[np.floating],
    y_ret: NDArray[np.floating],
    dates: NDArray[np.generic],
    horizons: Sequence[int],
    resampling: Resampling | None,
    y_dir: NDArray[np.floating] | None = None,
) -> Metrics:
    """Scores of one horizon; all arrays are (n,), returns in raw units. Rows whose label is NaN are left out.

    y_dir: its sign is the direction; None: that of y_ret, which may be another target than a return

    n, ties, tie_share:  labelled rows, those whose return is exactly 0, and their share
    accuracy, auc:       of direction, ties left out; "up" is forecast above a probability of 0.5, not at it
    majority:            share of the larger class among the rows that accuracy counts
    log_loss, brier:     ties left out; the log loss clips probabilities to [1e-7, 1 - 1e-7]
    mae:                 mean absolute error of ret
    accuracy_low, _high: 95% by moving-block bootstrap over dates, for the largest of the horizons; None
                         without resampling, as in a training loop, and where the dates don't fill two blocks

    A figure that the rows don't define, or that a forecast of NaN spoils, is None.
    """
    labelled = ~np.isnan(y_ret)
    direction = y_ret if y_dir is None else y_dir
    returns, prob, label, side = (x[labelled].astype(np.float64) for x in (ret, up_prob, y_ret, direction))
    distinct, date = np.unique(dates[labelled], return_inverse=True)
    terms = _terms(Forecast(prob, prob, returns), label, side)
    # summed over rows, so that no last bit depends on the dates
    observed = {name: defined(value) for name, value in _figures(terms.sum(axis=1)).items()}
    draws = None if resampling is None else resampling.draw(len(distinct), horizons)
    low = high = None
    if draws is not None and observed["accuracy"] is not None:
        tp, tn, fp, fn = draws.sums(_per_date(terms[:4], date, len(distinct)))
        low, high = draws.interval(observed["accuracy"], ratio(tp + tn, tp + tn + fp + fn), SHARE)
    about, moved = class_shares(side), side != 0
    return {
        **{name: about[name] for name in ("n", "ties", "tie_share", "up_share")},
        "accuracy": observed["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "majority": about["majority"],
        "log_loss": observed["log_loss"],
        "brier": observed["brier"],
        "auc": defined(auc(prob[moved], side[moved] > 0)),
        "mae": observed["mae"],
    }


def calibration_metrics(
    up_prob: Floats, calibrated: Floats, y_dir: NDArray[np.floating], horizons: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """Per horizon `log_loss_calibrated brier_calibrated ece ece_calibrated`, ties left out; arrays are
    (n, H)."""
    found = {}
    no_dates = np.zeros(len(y_dir))
    for horizon, before, after, y in zip(horizons, up_prob.T, calibrated.T, y_dir.T, strict=True):
        scores = horizon_metrics(no_dates, after, y, no_dates, horizons, None)
        found[f"h{horizon}"] = {
            "log_loss_calibrated": scores["log_loss"],
            "brier_calibrated": scores["brier"],
            "ece": expected_calibration_error(before, y),
            "ece_calibrated": expected_calibration_error(after, y),
        }
    return found


def with_limits(
    scores: Mapping[str, Metrics], best_prob: NDArray[np.floating], y_ret: NDArray[np.floating]
) -> dict[str, Metrics]:
    """The scores of each horizon with its limits beside them; best_prob and y_ret are (n, H)."""
    found: dict[str, Metrics] = {}
    for (horizon, own), p, y in zip(scores.items(), best_prob.T, y_ret.T, strict=True):
        best = limits(p, y)
        gap = gap_closed(own["accuracy"], own["majority"], best["limit_accuracy"])
        found[horizon] = {**own, **best, "gap_closed": gap}
    return found


def limits(best_prob: NDArray[np.floating], y_ret: NDArray[np.floating]) -> dict[str, float | None]:
    """What the best possible forecast of one horizon scores; best_prob and y_ret are (n,).

    limit_accuracy: its expected accuracy, the mean of max(p, 1 - p)
    limit_log_loss: its expected log loss, the mean entropy of p

    Ties are left out. None where no row counts.
    """
    moved = ~np.isnan(y_ret) & (y_ret != 0)
    p = best_prob[moved].astype(np.float64)
    clipped = np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    entropy = -clipped * np.log(clipped) - (1 - clipped) * np.log(1 - clipped)
    return {
        "limit_accuracy": float(np.maximum(p, 1 - p).mean()) if len(p) else None,
        "limit_log_loss": float(entropy.mean()) if len(p) else None,
    }


def gap_closed(accuracy: float | None, majority: float | None, limit: float | None) -> float | None:
    """(accuracy - majority) / (limit - majority); None where a figure is missing, or where the majority is
    within a point of the limit or above it."""
    if accuracy is None or majority is None or limit is None or limit - majority < SMALLEST_GAP:
        return None
    return (accuracy - majority) / (limit - majority)


def class_shares(y_dir: Floats) -> Metrics:
    """`n ties tie_share up_share majority` of labelled rows (n,); the last two without ties."""
    moved = y_dir != 0
    up_share = float((y_dir[moved] > 0).mean()) if moved.any() else np.nan
    return {
        "n": len(y_dir),
        "ties": int((~moved).sum()),
        "tie_share": float((~moved).mean()) if len(y_dir) else None,
        "up_share": defined(up_share),
        "majority": defined(max(up_share, 1 - up_share)),
    }


def score(
    forecast: Forecast,
    y_ret: Floats,
    date: NDArray[np.int64],
    dates: int,
    draws: BlockBootstrap | None,
    counts: Floats | None = None,
    y_dir: Floats | None = None,
) -> Scored:
    """Scores rows that all have a label; arrays are (n,), date the index of each row's date among `dates`.

    accuracy, balanced_accuracy, mcc, auc, log_loss, brier: of direction, returns of exactly 0 left out
    ece: see `expected_calibration_error`
    mae, r2: of returns; r2 is against a forecast of 0, 1 - sum (y - f)^2 / sum y^2 (Gu, Kelly and Xiu 2020)

    counts: `draws.counts()`, where many forecasters share them; y_dir: see `horizon_metrics`.
    """
    y_dir = y_ret if y_dir is None else y_dir
    per_date = _per_date(_terms(forecast, y_ret, y_dir), date, dates)
    moved = y_dir != 0
    up, day, ranked = y_dir[moved] > 0, date[moved], forecast.score[moved]
    observed = {name: float(value) for name, value in _figures(per_date.sum(axis=1)).items()}
    observed["auc"] = auc(ranked, up)
    error = None if forecast.prob is None else expected_calibration_error(forecast.prob, y_dir)
    observed["ece"] = np.nan if error is None else error
    if draws is None:
        return Scored(observed, {}, None)
    resampled = _figures(draws.sums(per_date))
    rises, falls = (np.bincount(day[side], minlength=dates).astype(np.float64) for side in (up, ~up))
    pairs = pair_counts(ranked, up, day, dates)
    resampled["auc"] = auc_of_draws(pairs, rises, falls, draws.counts() if counts is None else counts)
    return Scored(observed, resampled, draws)


def auc(score: Floats, up: NDArray[np.bool_]) -> float:
    """Area under the ROC curve from the rank sum, equal scores sharing the mean of their ranks (Mann and
    Whitney 1947); NaN with one class. scikit-learn's takes seconds to import, which every training would wait
    for."""
    positives = int(up.sum())
    negatives = len(up) - positives
    if positives == 0 or negatives == 0 or np.isnan(score).any():
        return np.nan
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((ranks[up].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_losses(up_prob: Floats, up: NDArray[np.bool_]) -> Floats:
    """(n,) of forecasts clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(up_prob, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -np.log(np.where(up, clipped, 1 - clipped))


def defined(value: float | np.floating | Floats) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return float(value) if np.isfinite(value) else None


def _per_date(terms: Floats, date: NDArray[np.int64], dates: int) -> Floats:
    """(k, n) to their sums (k, D)."""
    return np.stack([np.bincount(date, row, minlength=dates) for row in terms])


def _terms(forecast: Forecast, y_ret: Floats, y_dir: Floats) -> Floats:
    """(11, n) in the order in which `_figures` reads their sums."""
    up, moved, forecast_up = y_dir > 0, y_dir != 0, forecast.score > 0.5
    unknown = np.full(len(y_ret), np.nan)
    prob = unknown if forecast.prob is None else forecast.prob
    ret = unknown if forecast.ret is None else forecast.ret
    counted = np.where(moved & np.isnan(forecast.score), np.nan, moved)  # NaN: not known to be right
    terms = (
        counted * (up & forecast_up),
        counted * (~up & ~forecast_up),
        counted * (~up & forecast_up),
        counted * (up & ~forecast_up),
        moved,
        np.where(moved, log_losses(prob, up), 0),
        np.where(moved, np.square(prob - up), 0),
        np.ones(len(y_ret)),
        np.abs(ret - y_ret),
        np.square(ret - y_ret),
        np.square(y_ret),
    )
    return np.stack(terms)


def _figures(sums: Floats) -> dict[str, Floats]:
    """All figures but auc and ece from sums (11, ...)."""
    tp, tn, fp, fn, moves, log_loss, square, rows, error, square_error, square_return = sums
    sides = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    # MCC is 0 by convention where all forecasts are alike, as in scikit-learn
    mcc = np.where(sides > 0, ratio(tp * tn - fp * fn, np.sqrt(sides)), ratio(0 * tp, tp + tn + fp + fn))
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "balanced_accuracy": (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2,
        "mcc": mcc,
        "log_loss": ratio(log_loss, moves),
        "brier": ratio(square, moves),
        "mae": ratio(error, rows),
        "r2": 1 - ratio(square_error, square_return),
    }


def coverage_curve(
    up_prob: Floats,
    uncertainty: Floats,
    y_dir: Floats,
    date: NDArray[np.int64],
    dates: int,
    draws: BlockBootstrap | None,
    coverages: Sequence[float] = COVERAGES,
) -> list[Metrics]:
    """`coverage n accuracy low high majority above_low above_high` of the least uncertain rows (El-Yaniv and
    Wiener 2010); arrays are (n,).

    Returns of exactly 0 are left out first. Rows of equal uncertainty are kept or left out together, so that
    the coverage given is the one reached. majority: share of the larger class among the rows kept; above:
    interval of accuracy minus that share. low and high are 95% by moving-block bootstrap.
    """
    moved = y_dir != 0
    right, unsure = (up_prob > 0.5) == (y_dir > 0), uncertainty[moved]
    right, up, day = right[moved], y_dir[moved] > 0, date[moved]
    found: list[Metrics] = []
    if not len(unsure):
        return found
    ordered = np.sort(unsure)
    for wanted in coverages:
        kept = unsure <= ordered[max(round(wanted * len(unsure)), 1) - 1]
        majority = up[kept] == (up[kept].mean() > 0.5)
        rows = (right[kept], majority, np.ones(kept.sum()))
        accuracy, share = float(right[kept].mean()), float(majority.mean())
        low = high = above_low = above_high = None
        if draws is not None:
            per_date = np.stack([np.bincount(day[kept], row, minlength=dates) for row in rows])
            hits, base, count = draws.sums(per_date.astype(np.float64))
            low, high = draws.interval(accuracy, ratio(hits, count), SHARE)
            above_low, above_high = draws.interval(accuracy - share, ratio(hits - base, count))
        found.append(
            {
                "coverage": float(kept.mean()),
                "n": int(kept.sum()),
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "majority": share,
                "above_low": above_low,
                "above_high": above_high,
            }
        )
    return found
