"""Every score of a forecast as a function of sums over dates, so that a resampled one costs a few additions.

Legend: n rows (one symbol at one date), D dates, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import (
    BlockBootstrap,
    Floats,
    auc_of_draws,
    interval,
    p_above_zero,
    pair_counts,
    ratio,
)
from stockenh.evaluation.metrics import log_losses
from stockenh.inference.calibration import expected_calibration_error

# Which way is better; ece has no interval: noise alone raises it, and resampling raises it again.
HIGHER = ("accuracy", "balanced_accuracy", "mcc", "auc", "r2")
LOWER = ("log_loss", "brier", "mae")
WITH_INTERVAL = ("accuracy", "balanced_accuracy", "mcc", "auc", "log_loss", "brier", "mae", "r2")
FIGURES = ("accuracy", "balanced_accuracy", "mcc", "auc", "log_loss", "brier", "ece", "mae", "r2")
_SUMS = ("tp", "tn", "fp", "fn", "rows", "log", "square", "miss", "miss2", "moves2")


@dataclass(frozen=True)
class Forecast:
    """What one forecaster says of n rows at one horizon.

    score:  (n,) up above 0.5, not at it; its order makes the AUC
    prob:   (n,) probability of up, for log loss, Brier and ECE; None of a forecaster that has none
    ret:    (n,) return in raw units, for MAE and R2; None of a forecaster that has none
    signal: (n,) what the cross-sectional IC ranks symbols by; None of one that says the same of all
    """

    score: Floats
    prob: Floats | None = None
    ret: Floats | None = None
    signal: Floats | None = None

    def at(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Forecast:
        """What it says of these rows alone."""

        def of(part: Floats | None) -> Floats | None:
            return None if part is None else part[rows]

        return Forecast(self.score[rows], of(self.prob), of(self.ret), of(self.signal))


@dataclass(frozen=True)
class Scored:
    """Figures of one forecaster: as seen, and for every draw (R,); NaN where undefined."""

    seen: dict[str, float]
    drawn: dict[str, Floats]

    def figures(self) -> dict[str, float | None]:
        """`accuracy accuracy_low accuracy_high ...`: each figure with its 95% interval; None: undefined."""
        found: dict[str, float | None] = {}
        for name in FIGURES:
            found[name] = defined(self.seen[name])
            if name in WITH_INTERVAL:
                ends = interval(self.drawn[name]) if self.drawn and found[name] is not None else (None, None)
                found[f"{name}_low"], found[f"{name}_high"] = ends
        return found

    def beyond(self, other: Scored) -> dict[str, dict[str, float | None]]:
        """This minus the other on the same draws: `difference low high p` of each figure that both have.

        p: one-sided, of this being no better than the other; None without draws.
        """
        found: dict[str, dict[str, float | None]] = {}
        for name in WITH_INTERVAL:
            difference = self.seen[name] - other.seen[name]
            low = high = p = None
            if self.drawn and np.isfinite(difference):
                drawn = self.drawn[name] - other.drawn[name]
                low, high = interval(drawn)
                sign = 1 if name in HIGHER else -1
                p = p_above_zero(sign * difference, sign * drawn)
            found[name] = {"difference": defined(difference), "low": low, "high": high, "p": p}
        return found


def score(
    forecast: Forecast,
    y_ret: Floats,
    date: NDArray[np.int64],
    dates: int,
    draws: BlockBootstrap | None,
    counts: Floats | None = None,
) -> Scored:
    """Scores rows that all have a label; arrays are (n,), date the place of each row's date among `dates`.

    accuracy, balanced_accuracy, mcc, auc: of direction, returns of exactly 0 left out
    log_loss, brier: against y_ret > 0 on all rows; ece: see `expected_calibration_error`
    mae, r2: of returns; r2 is against a forecast of 0, 1 - sum (y - f)^2 / sum y^2 (Gu, Kelly and Xiu 2020)

    counts: `draws.counts()`, where many forecasters share them.
    """
    per_date = _sums_per_date(forecast, y_ret, date, dates)
    moved = y_ret != 0
    up, day = y_ret[moved] > 0, date[moved]
    pairs = pair_counts(forecast.score[moved], up, day, dates)
    rises, falls = (np.bincount(day[of], minlength=dates).astype(np.float64) for of in (up, ~up))
    once = np.ones((1, dates))
    seen = {name: float(value) for name, value in _figures(per_date.sum(axis=1)).items()}
    seen["auc"] = float(auc_of_draws(pairs, rises, falls, once)[0])
    error = None if forecast.prob is None else expected_calibration_error(forecast.prob, y_ret)
    seen["ece"] = np.nan if error is None else error
    if draws is None:
        return Scored(seen, {})
    drawn = _figures(draws.sums(per_date))
    drawn["auc"] = auc_of_draws(pairs, rises, falls, draws.counts() if counts is None else counts)
    return Scored(seen, drawn)


def defined(value: float) -> float | None:
    """None for NaN and infinity, which JSON does not know."""
    return float(value) if np.isfinite(value) else None


def _sums_per_date(forecast: Forecast, y_ret: Floats, date: NDArray[np.int64], dates: int) -> Floats:
    """(len(_SUMS), D)."""
    up, moved, said_up = y_ret > 0, y_ret != 0, forecast.score > 0.5
    unknown = np.full(len(y_ret), np.nan)
    prob = unknown if forecast.prob is None else forecast.prob
    ret = unknown if forecast.ret is None else forecast.ret
    of_rows = {
        "tp": moved & up & said_up,
        "tn": moved & ~up & ~said_up,
        "fp": moved & ~up & said_up,
        "fn": moved & up & ~said_up,
        "rows": np.ones(len(y_ret)),
        "log": log_losses(prob, up),
        "square": np.square(prob - up),
        "miss": np.abs(ret - y_ret),
        "miss2": np.square(ret - y_ret),
        "moves2": np.square(y_ret),
    }
    return np.stack([np.bincount(date, of_rows[name], minlength=dates) for name in _SUMS])


def _figures(sums: Floats) -> dict[str, Floats]:
    """All figures but auc and ece from sums (len(_SUMS), ...)."""
    of: Mapping[str, Floats] = dict(zip(_SUMS, sums, strict=True))
    tp, tn, fp, fn = (of[name] for name in ("tp", "tn", "fp", "fn"))
    sides = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    # of one who always says the same MCC is 0 by convention, as in scikit-learn
    mcc = np.where(sides > 0, ratio(tp * tn - fp * fn, np.sqrt(sides)), ratio(0 * tp, tp + tn + fp + fn))
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "balanced_accuracy": (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2,
        "mcc": mcc,
        "log_loss": ratio(of["log"], of["rows"]),
        "brier": ratio(of["square"], of["rows"]),
        "mae": ratio(of["miss"], of["rows"]),
        "r2": 1 - ratio(of["miss2"], of["moves2"]),
    }


COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def coverage_curve(
    up_prob: Floats,
    uncertainty: Floats,
    y_ret: Floats,
    date: NDArray[np.int64],
    dates: int,
    draws: BlockBootstrap | None,
    coverages: Sequence[float] = COVERAGES,
) -> list[dict[str, float | int | None]]:
    """`coverage n accuracy low high majority above_low above_high` of the least uncertain rows (El-Yaniv and
    Wiener 2010); arrays are (n,).

    Returns of exactly 0 are left out first. Rows of equal uncertainty come in or stay out together, so that
    the coverage given is the one reached. majority: share of the larger class among these very rows;
    above: interval of accuracy minus that class's. low and high are 95% by moving-block bootstrap.
    """
    moved = y_ret != 0
    said, sure, up, day = up_prob[moved] > 0.5, uncertainty[moved], y_ret[moved] > 0, date[moved]
    found: list[dict[str, float | int | None]] = []
    if not len(sure):
        return found
    ordered = np.sort(sure)
    for wanted in coverages:
        cut = ordered[max(round(wanted * len(sure)), 1) - 1]
        kept = sure <= cut
        larger = up[kept].mean() > 0.5
        hits, alone = said[kept] == up[kept], up[kept] == larger
        low, high = above_low, above_high = None, None
        if draws is not None:
            of_rows = (hits, alone, np.ones(len(hits)))
            per_date = np.stack([np.bincount(day[kept], row, minlength=dates) for row in of_rows])
            right, base, count = draws.sums(per_date.astype(np.float64))
            (low, high), (above_low, above_high) = (
                interval(ratio(part, count)) for part in (right, right - base)
            )
        found.append(
            {
                "coverage": float(kept.mean()),
                "n": int(kept.sum()),
                "accuracy": defined(hits.mean()),
                "low": low,
                "high": high,
                "majority": defined(alone.mean()),
                "above_low": above_low,
                "above_high": above_high,
            }
        )
    return found
