"""Forecasts that a model must beat: fitted on the train part alone, applied to the rows that it is judged on.

Legend: m train rows, n judged rows, F context features.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.scores import Forecast

MAJORITY, PERSISTENCE, MOMENTUM = "majority", "persistence", "momentum"
LOGISTIC, BOOSTING, LIGHTGBM = "logistic", "boosting", "lightgbm"
LEARNT = (LOGISTIC, BOOSTING, LIGHTGBM)
MOMENTUM_BARS = 60
ROUNDS, LEAVES, LEAF_ROWS, RATE = 200, 15, 100, 0.05  # of both boosted trees; nothing is searched

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """What a baseline may look at, of the train rows or of the judged ones.

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


def sign_rule(past: Floats, train: tuple[Floats, Floats] | None, ret: bool = False) -> Forecast:
    """The direction of a past return (n,) goes on; one of exactly 0 forecasts none, which counts as down.

    Its probability is how often that held in `train` (past (m,), y_ret (m,)), None without it. ret: the past
    return is the forecast return too.
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
    return Forecast(0.5 + 0.5 * np.sign(past), prob, past if ret else None, past)


def learnt(name: str, train: TrainPart, context: Matrix, seed: int, threads: int) -> Forecast:
    """A classifier of the direction on the standardised features, fitted on train without its ties.

    One class only in train, or no row: its share for all.
    """
    counted = np.isfinite(train.y_ret) & (train.y_ret != 0)
    x, up = train.known.context[counted], train.y_ret[counted] > 0
    if not len(up) or up.all() or not up.any():
        prob = np.full(len(context), up.mean() if len(up) else 0.5)
    else:
        prob = _FITS[name](x, up, context, seed, threads)
    return Forecast(prob, prob, signal=prob)


def _logistic(x: Matrix, up: NDArray[np.bool_], context: Matrix, seed: int, threads: int) -> Floats:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1.0, solver="newton-cholesky").fit(x.astype(np.float64), up)
    return np.asarray(fitted.predict_proba(context.astype(np.float64))[:, 1])


def _boosting(x: Matrix, up: NDArray[np.bool_], context: Matrix, seed: int, threads: int) -> Floats:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    trees = HistGradientBoostingClassifier(
        max_iter=ROUNDS, learning_rate=RATE, max_leaf_nodes=LEAVES, min_samples_leaf=LEAF_ROWS,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
    with threadpool_limits(threads):
        return np.asarray(trees.fit(x, up).predict_proba(context)[:, 1], np.float64)


def _lightgbm(x: Matrix, up: NDArray[np.bool_], context: Matrix, seed: int, threads: int) -> Floats:
    import lightgbm

    settings = {
        "objective": "binary", "learning_rate": RATE, "num_leaves": LEAVES, "min_data_in_leaf": LEAF_ROWS,
        "num_threads": threads, "seed": seed, "deterministic": True, "force_row_wise": True, "verbosity": -1,
    }  # fmt: skip
    trees = lightgbm.train(settings, lightgbm.Dataset(x, up.astype(np.float64)), ROUNDS)
    return np.asarray(trees.predict(context), np.float64)


_FITS: dict[str, Callable[[Matrix, NDArray[np.bool_], Matrix, int, int], Floats]] = {
    LOGISTIC: _logistic,
    BOOSTING: _boosting,
    LIGHTGBM: _lightgbm,
}


def baseline_forecasts(
    known: Known, train: TrainPart | None, up_share: float, names: tuple[str, ...], seed: int, threads: int
) -> dict[str, Forecast]:
    """The named baselines of one horizon for the judged rows, by name; no label of theirs is seen.

    up_share: of the run's train part. Without `train` those that are fitted are left out, and the sign rules
    have no probability.
    """
    found = {}
    y_ret = None if train is None else train.y_ret[np.isfinite(train.y_ret)]
    mean = float(y_ret.mean()) if y_ret is not None and len(y_ret) else None
    for name in names:
        if name == MAJORITY:
            found[name] = majority(up_share, len(known.past), mean)
        elif name == PERSISTENCE:
            before = None if train is None else (train.known.past, train.y_ret)
            found[name] = sign_rule(known.past, before, ret=True)
        elif name == MOMENTUM:
            before = None if train is None else (train.known.momentum, train.y_ret)
            found[name] = sign_rule(known.momentum, before)
        elif train is not None:
            found[name] = learnt(name, train, known.context, seed, threads)
    return found


def concatenated(forecasts: list[Forecast]) -> Forecast:
    """Forecasts of several sets of rows as one; what one of them lacks, the whole lacks."""

    def joined(parts: list[Floats | None]) -> Floats | None:
        there = [part for part in parts if part is not None]
        return np.concatenate(there) if len(there) == len(parts) else None

    return Forecast(
        np.concatenate([f.score for f in forecasts]),
        joined([f.prob for f in forecasts]),
        joined([f.ret for f in forecasts]),
        joined([f.signal for f in forecasts]),
    )
