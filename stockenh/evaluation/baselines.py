"""Forecasts that a model must beat: fitted on the train part alone, applied to the rows that are scored.

Legend: m train rows, n scored rows, F context features.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.metrics import Forecast

MAJORITY, PERSISTENCE, MOMENTUM = "majority", "persistence", "momentum"
LOGISTIC, BOOSTING, LIGHTGBM = "logistic", "boosting", "lightgbm"
MOMENTUM_BARS = 60
ROUNDS, LEAVES, LEAF_ROWS, RATE = 200, 15, 100, 0.05  # of both boosted trees; nothing is searched

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """What a baseline may look at, of the train rows or of the scored ones.

    context: (m, F) standardised features; past: (m,) return over the last h bars; momentum: (m,) over
    60; both up to and with the bar of the forecast
    """

    context: Matrix
    past: Floats
    momentum: Floats


@dataclass(frozen=True)
class TrainPart:
    """The train rows with their labels y_ret (m,), NaN where there is none."""

    known: Known
    y_ret: Floats


def has_lightgbm() -> bool:
    return importlib.util.find_spec("lightgbm") is not None


def majority(up_share: float, rows: int, mean_return: float | None) -> Forecast:
    """Always the larger class of train, with train's share of up as probability and its mean as return."""
    share = np.full(rows, up_share)
    return Forecast(share, share, None if mean_return is None else np.full(rows, mean_return))


def sign_rule(past: Floats, train: tuple[Floats, Floats] | None, has_return: bool = False) -> Forecast:
    """The direction of a past return (n,) goes on; one of exactly 0 forecasts none, which counts as down.

    Its probability is how often that held in `train` (past (m,), y_ret (m,)), None without it. has_return:
    the past return is the forecast return too.
    """
    prob = None
    if train is not None:
        before, y_ret = train
        counted = np.isfinite(y_ret) & (y_ret != 0)
        up = y_ret[counted] > 0
        prob = np.full(len(past), up.mean() if len(up) else 0.5)
        for sign in (-1, 0, 1):
            alike = up[np.sign(before[counted]) == sign]
            if len(alike):
                prob[np.sign(past) == sign] = alike.mean()
    return Forecast(0.5 + 0.5 * np.sign(past), prob, past if has_return else None, past)


def fitted(name: str, train: TrainPart, context: Matrix, seed: int, threads: int) -> Forecast:
    """A classifier of the direction on the standardised features, fitted on train without its ties.

    One class only in train, or no row: its share for all.
    """
    counted = np.isfinite(train.y_ret) & (train.y_ret != 0)
    x, up = train.known.context[counted], train.y_ret[counted] > 0
    if not len(up) or up.all() or not up.any():
        prob = np.full(len(context), up.mean() if len(up) else 0.5)
        return Forecast(prob, prob, signal=prob)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        classifier = _classifier(name, seed, threads).fit(x.astype(np.float64), up)
        prob = np.asarray(classifier.predict_proba(context.astype(np.float64))[:, 1], np.float64)
    return Forecast(prob, prob, signal=prob)


def _classifier(name: str, seed: int, threads: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    if name == LOGISTIC:
        return LogisticRegression(C=1.0, solver="newton-cholesky")
    if name == BOOSTING:
        return HistGradientBoostingClassifier(
            max_iter=ROUNDS, learning_rate=RATE, max_leaf_nodes=LEAVES, min_samples_leaf=LEAF_ROWS,
            early_stopping=False, random_state=seed,
        )  # fmt: skip
    from lightgbm import LGBMClassifier

    return LGBMClassifier(
        n_estimators=ROUNDS, learning_rate=RATE, num_leaves=LEAVES, min_child_samples=LEAF_ROWS,
        n_jobs=threads, random_state=seed, deterministic=True, force_row_wise=True, verbosity=-1,
    )  # fmt: skip


def baseline_forecasts(
    known: Known, train: TrainPart | None, up_share: float, names: tuple[str, ...], seed: int, threads: int
) -> dict[str, Forecast]:
    """The named baselines of one horizon for the scored rows, by name; no label of theirs is seen.

    up_share: of the run's train part. Without `train` those that are fitted are left out, and the sign rules
    have no probability.
    """
    found = {}
    mean = None if train is None or np.isnan(train.y_ret).all() else float(np.nanmean(train.y_ret))
    for name in names:
        if name == MAJORITY:
            found[name] = majority(up_share, len(known.past), mean)
        elif name == PERSISTENCE:
            before = None if train is None else (train.known.past, train.y_ret)
            found[name] = sign_rule(known.past, before, has_return=True)
        elif name == MOMENTUM:
            before = None if train is None else (train.known.momentum, train.y_ret)
            found[name] = sign_rule(known.momentum, before)
        elif train is not None:
            found[name] = fitted(name, train, known.context, seed, threads)
    return found


def concatenated(forecasts: Sequence[Forecast]) -> Forecast:
    """Forecasts of several sets of rows as one; a field that is None in one of them is None in the whole."""

    def joined(name: str) -> Floats | None:
        parts = [getattr(forecast, name) for forecast in forecasts]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    score = np.concatenate([forecast.score for forecast in forecasts])
    return Forecast(score, joined("prob"), joined("ret"), joined("signal"))
