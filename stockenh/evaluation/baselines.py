"""Forecasts that a model must beat: fitted on train, chosen on validation, applied to the scored rows.

Legend: m train rows, n scored rows, F context features.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.metrics import PROBABILITY_FLOOR, Forecast, log_losses
from stockenh.inference.calibration import Calibration

MAJORITY, PERSISTENCE, MOMENTUM = "majority", "persistence", "momentum"
LOGISTIC, BOOSTING, LIGHTGBM = "logistic", "boosting", "lightgbm"
FITTED = (LOGISTIC, BOOSTING, LIGHTGBM)
MOMENTUM_BARS = 60
PENALTIES = tuple(10.0 ** np.arange(-6, 1.5, 0.5))  # C; the weaker the signal, the smaller
LEAVES = (4, 15)  # of both boosted trees
ROUNDS, LEAF_ROWS, RATE = 200, 100, 0.05
PATIENCE = 20  # rounds without a lower log loss on validation
FEWEST_HELD = 30  # rows of validation to choose by

Matrix = NDArray[np.float32]
Dates = NDArray[np.datetime64]
Held = tuple[Floats, NDArray[np.bool_]]  # features (m, F) and direction (m,)
Predict = Callable[[Floats], Floats]  # features to probabilities of up


@dataclass(frozen=True)
class Known:
    """What a baseline may look at, of the train rows or of the scored ones.

    context: (m, F) standardised features; past: (m,) return over the last h bars; momentum: (m,) over
    60; both up to and with the bar of the forecast, and in the unit of the target
    """

    context: Matrix
    past: Floats
    momentum: Floats


@dataclass(frozen=True)
class LabelledPart:
    """The train or the validation rows with their labels y_ret (m,), NaN where there is none.

    asof: (m,) when each row's window ends; horizon: bars ahead of the labels
    y_dir: (m,) whose sign is the direction; None: that of y_ret
    """

    known: Known
    y_ret: Floats
    asof: Dates
    horizon: int
    y_dir: Floats | None = None

    @property
    def direction(self) -> Floats:
        """(m,) whose sign is the direction, NaN where there is no label."""
        return self.y_ret if self.y_dir is None else self.y_dir

    def moved(self) -> Held:
        """Features and direction of the rows that have one."""
        counted = np.isfinite(self.direction) & (self.direction != 0)
        return self.known.context[counted].astype(np.float64), self.direction[counted] > 0


def has_lightgbm() -> bool:
    return importlib.util.find_spec("lightgbm") is not None


def majority(up_share: float, rows: int, mean_return: float | None) -> Forecast:
    """Always the larger class of train, with train's share of up as probability and its mean as return."""
    share = np.full(rows, up_share)
    return Forecast(share, share, None if mean_return is None else np.full(rows, mean_return))


def sign_rule(past: Floats, train: tuple[Floats, Floats] | None, has_return: bool = False) -> Forecast:
    """The direction of a past return (n,) goes on; one of exactly 0 forecasts none, which counts as down.

    Its probability is how often that held in `train` (past (m,), y_dir (m,)), None without it. has_return:
    the past return is the forecast return too.
    """
    prob = None
    if train is not None:
        before, y_dir = train
        counted = np.isfinite(y_dir) & (y_dir != 0)
        up = y_dir[counted] > 0
        prob = np.full(len(past), up.mean() if len(up) else 0.5)
        for sign in (-1, 0, 1):
            alike = up[np.sign(before[counted]) == sign]
            if len(alike):
                prob[np.sign(past) == sign] = alike.mean()
    return Forecast(0.5 + 0.5 * np.sign(past), prob, past if has_return else None, past)


def fitted(
    name: str, train: LabelledPart, val: LabelledPart | None, context: Matrix, seed: int, threads: int
) -> Forecast:
    """A classifier of the direction on the standardised features, fitted on train without its ties.

    It gets what the network gets: the penalty, or rounds and leaves, of the lowest log loss on `val`, and a
    calibration fitted there. Without `val`, or where that has too few rows or one class, the settings are
    fixed and nothing is calibrated. One class only in train, or no row: its share for all.
    """
    x, up = train.moved()
    if not _has_both(up):
        prob = np.full(len(context), up.mean() if len(up) else 0.5)
        return Forecast(prob, prob, signal=prob)
    held = None if val is None else val.moved()
    if held is not None and (len(held[1]) < FEWEST_HELD or not _has_both(held[1])):
        held = None
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        if name == LOGISTIC:
            predict = _logistic(x, up, held)
        else:
            boosted = _lightgbm if name == LIGHTGBM else _boosting
            predict = _fewest_losses([boosted(x, up, held, leaves, seed, threads) for leaves in LEAVES], held)
        prob = predict(context.astype(np.float64))
        if val is not None and held is not None:
            prob = _calibrated(predict(val.known.context.astype(np.float64)), val, prob)
    return Forecast(prob, prob, signal=prob)


def _has_both(up: NDArray[np.bool_]) -> bool:
    return bool(up.any() and not up.all())


def _calibrated(val_prob: Floats, val: LabelledPart, prob: Floats) -> Floats:
    """The probabilities (n,) calibrated as the network's are."""

    def logits(p: Floats) -> Floats:
        clipped = np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        return np.log(clipped / (1 - clipped))[:, None]

    fit = Calibration.fit(logits(val_prob), val.direction[:, None], val.asof, [val.horizon], shifted=False)
    return fit.apply(logits(prob))[:, 0]


def _fewest_losses(models: Sequence[Predict], held: Held | None) -> Predict:
    """Of several models the one with the lowest log loss on the held-out rows; without these the last."""
    if held is None:
        return models[-1]
    x, up = held
    return min(models, key=lambda predict: log_losses(predict(x), up).mean())


def _logistic(x: Floats, up: NDArray[np.bool_], held: Held | None) -> Predict:
    from sklearn.linear_model import LogisticRegression

    def of(penalty: float) -> Predict:
        model = LogisticRegression(C=penalty, solver="newton-cholesky").fit(x, up)
        return lambda rows: np.asarray(model.predict_proba(rows)[:, 1], np.float64)

    return _fewest_losses([of(penalty) for penalty in (PENALTIES if held is not None else (1.0,))], held)


def _boosting(
    x: Floats, up: NDArray[np.bool_], held: Held | None, leaves: int, seed: int, threads: int
) -> Predict:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=ROUNDS, learning_rate=RATE, max_leaf_nodes=leaves, min_samples_leaf=LEAF_ROWS,
        early_stopping=held is not None, n_iter_no_change=PATIENCE, random_state=seed,
    )  # fmt: skip
    if held is None:
        model.fit(x, up)
        return lambda rows: np.asarray(model.predict_proba(rows)[:, 1], np.float64)
    model.fit(x, up, X_val=held[0], y_val=held[1])
    rounds = max(int(np.argmax(model.validation_score_)), 1)  # the first score is that of no round

    def predict(rows: Floats) -> Floats:
        (last,) = itertools.islice(model.staged_predict_proba(rows), rounds - 1, rounds)
        return np.asarray(last[:, 1], np.float64)

    return predict


def _lightgbm(
    x: Floats, up: NDArray[np.bool_], held: Held | None, leaves: int, seed: int, threads: int
) -> Predict:
    import lightgbm

    settings = {
        "objective": "binary", "learning_rate": RATE, "num_leaves": leaves, "min_data_in_leaf": LEAF_ROWS,
        "num_threads": threads, "seed": seed, "deterministic": True, "force_row_wise": True, "verbosity": -1,
    }  # fmt: skip
    rows = lightgbm.Dataset(x, up)
    if held is None:
        model = lightgbm.train(settings, rows, ROUNDS)
    else:  # a prediction then takes the best number of rounds
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        model = lightgbm.train(settings, rows, ROUNDS, [rows.create_valid(*held)], callbacks=[stop])
    return lambda rows: np.asarray(model.predict(rows), np.float64)


def baseline_forecasts(
    known: Known,
    train: LabelledPart | None,
    val: LabelledPart | None,
    up_share: float,
    names: tuple[str, ...],
    seed: int,
    threads: int,
) -> dict[str, Forecast]:
    """The named baselines of one horizon for the scored rows, by name; no label of theirs is seen.

    up_share: of the run's train part; val: what settings are chosen on, see `fitted`. Without `train` those
    that are fitted are left out, and the sign rules have no probability.
    """
    found = {}
    mean = None if train is None or np.isnan(train.y_ret).all() else float(np.nanmean(train.y_ret))
    for name in names:
        if name == MAJORITY:
            found[name] = majority(up_share, len(known.past), mean)
        elif name == PERSISTENCE:
            before = None if train is None else (train.known.past, train.direction)
            found[name] = sign_rule(known.past, before, has_return=True)
        elif name == MOMENTUM:
            before = None if train is None else (train.known.momentum, train.direction)
            found[name] = sign_rule(known.momentum, before)
        elif train is not None:
            found[name] = fitted(name, train, val, known.context, seed, threads)
    return found


def concatenated(forecasts: Sequence[Forecast]) -> Forecast:
    """Forecasts of several sets of rows as one; a field that is None in one of them is None in the whole."""

    def joined(name: str) -> Floats | None:
        parts = [getattr(forecast, name) for forecast in forecasts]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    score = np.concatenate([forecast.score for forecast in forecasts])
    return Forecast(score, joined("prob"), joined("ret"), joined("signal"))
