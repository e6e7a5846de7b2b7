"""Leaks that show when work is repeated: with other later bars, shuffled labels or a random split.

Legend: N bars of all series, n windows, F features, H horizons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.data.extra import ExtraColumns
from stockenh.errors import counted
from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.leakage import FAIL, INFO, NOT_APPLICABLE, PASS, WARN, Check, first_few
from stockenh.evaluation.metrics import horizon_metrics

Floats = NDArray[np.floating]
Accuracies = dict[str, list[float]]  # by horizon, one for each shuffle

LATER_BARS = "later bars"
MODELS = ("logistic regression", "gradient boosting")
_LEVEL = 1.3  # so far from the last known close the other path begins, up or down: no swing outlives it
_DAILY = 0.02
_MISSING = 0.3  # of the other values of an own column
_CERTAINTY = 0.999  # of the one-sided t test over shuffles


def other_bars(
    ohlcv: NDArray[np.float64],
    time: NDArray[np.datetime64],
    offsets: NDArray[np.int64],
    after: np.datetime64,
    seed: int,
) -> NDArray[np.float64]:
    """(N, 5) the same bars up to `after`, and from there a random walk with valid bars and other volumes.

    offsets: (S + 1,) where each series begins. Series start at the higher and the lower level in turn.
    """
    changed = ohlcv.copy()
    for series, (start, stop) in enumerate(pairwise(offsets.tolist())):
        known = int(np.searchsorted(time[start:stop], after, side="right"))
        if start + known == stop:
            continue
        own = ohlcv[start : start + max(known, 1)]
        level = own[-1, 3] * (_LEVEL if (seed + series) % 2 else 1 / _LEVEL)
        rng = np.random.default_rng([seed, series])
        changed[start + known : stop] = _walk(rng, stop - start - known, level, float(np.median(own[:, 4])))
    return changed


def other_columns(extra: ExtraColumns, after: np.datetime64, seed: int) -> ExtraColumns:
    """The same own columns up to `after`, and from there other values, known where none was and the reverse.

    On daily bars a row belongs to its whole day: then `after` is the end of one.
    """
    changed = []
    for number, column in enumerate(extra.past):
        later = column.time > after
        rng = np.random.default_rng([seed, number])
        spread = float(np.nan_to_num(np.nanstd(column.value[~later]) if (~later).any() else 0)) or 1.0
        other = np.nan_to_num(column.value) + spread * rng.normal(2, 1, len(later))
        other[rng.random(len(later)) < _MISSING] = np.nan
        changed.append(replace(column, value=np.where(later, other, column.value)))
    return replace(extra, past=tuple(changed))


def _walk(rng: np.random.Generator, n: int, level: float, volume: float) -> NDArray[np.float64]:
    close = level * np.exp(rng.normal(0, _DAILY, n).cumsum())
    opening = close * np.exp(rng.normal(0, _DAILY / 2, n))
    up, down = np.exp(np.abs(rng.normal(0, _DAILY / 2, (2, n))))
    high, low = np.maximum(opening, close) * up, np.minimum(opening, close) / down
    return np.column_stack(
        [opening, high, low, close, np.round((volume + 1) * np.exp(rng.normal(0, 0.7, n)))]
    )


def moved_rows(before: NDArray[np.generic], after: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(n, F) whether two arrays of that shape differ, to the last bit."""
    bits = np.dtype(f"u{before.dtype.itemsize}")
    differ = np.ascontiguousarray(before).view(bits) != np.ascontiguousarray(after).view(bits)
    return np.asarray(differ.reshape(len(before), -1))


def check_later_bars(
    moved: Mapping[str, int],
    compared: int,
    dates: int,
    symbols: int,
    noticed: bool,
    stale: Sequence[str] = (),
) -> Check:
    """No input or forecast moved when later bars were replaced.

    moved: by the name of an input or output, in how many of the `compared` windows it moved; noticed: whether
    anything after a changed bar moved; stale: features that the code now makes other than the run has them.
    """
    names = sorted((name for name, count in moved.items() if count), key=lambda name: -moved[name])
    examined = (
        f"{counted(compared, 'window')} up to {dates} dates of {counted(symbols, 'symbol')}, every later bar "
        f"replaced"
    )
    finding, result, advice = PASS, "inputs and forecasts the same to the last bit", ""
    if names:
        listed = first_few([f"{name} (in {moved[name]:,})" for name in names], 6)
        finding, result = FAIL, f"{listed} moved"
        advice = "these see later bars: find the shift, the fill or the missing delay in their code"
    elif stale:
        finding = WARN
        result = f"nothing moved, but the cache holds other values of {first_few(stale)} than the code makes"
        advice = "the run did not learn from what was checked: empty the cache (cache_dir) and train anew"
    elif not noticed:
        finding, result = WARN, "nothing moved, but neither did anything after them"
        advice = "the features seem not to be computed from these bars: the check can't detect anything"
    figures = {"windows": compared, "dates": dates, "moved": {name: moved[name] for name in names}}
    return Check(LATER_BARS, finding, f"{examined}: {result}", advice, figures)


def shuffled_labels(
    symbol: NDArray[np.integer], asof: NDArray[np.datetime64], y_ret: Floats, block: int, seed: int
) -> Floats:
    """(n, H) the same returns in another order, moved in blocks of `block` consecutive rows of one symbol.

    Blocks keep the overlap of neighbouring labels; they change symbols too, or a model could still learn a
    symbol's share of up.
    """
    order = np.lexsort((asof, symbol))
    rng = np.random.default_rng(seed)
    edges = np.flatnonzero(np.diff(symbol[order])) + 1
    blocks = [
        stretch[start : start + block]
        for stretch in np.split(order, edges)
        for start in range(0, len(stretch), block)
    ]
    sources = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))]) if blocks else order
    shuffled = np.empty_like(y_ret)
    shuffled[order] = y_ret[sources]
    return shuffled


def up_probability(kind: str, x: Floats, y_dir: Floats, x_test: Floats, seed: int) -> Floats | None:
    """(k,) probability of up for x_test (k, F) by a scikit-learn classifier on raw features (n, F).

    Rows without a label and returns of exactly 0 teach nothing; None where the labels hold one class only.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    used = np.isfinite(y_dir) & (y_dir != 0)
    up = y_dir[used] > 0
    if len(up) < 2 or up.all() or not up.any():
        return None
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    if kind == "gradient boosting":
        model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    model.fit(x[used].astype(np.float64), up)
    return np.asarray(model.predict_proba(x_test.astype(np.float64))[:, 1])


def accuracy_and_majority(up_prob: Floats, y_dir: Floats) -> tuple[float | None, float | None]:
    """Accuracy of direction and the majority class of one horizon, both (n,); None where undefined."""
    zeros = np.zeros(len(y_dir))
    found = horizon_metrics(zeros, up_prob, y_dir, zeros, (1,), None)
    return found["accuracy"], found["majority"]


def check_shuffled(by_model: Mapping[str, Accuracies], majority: Mapping[str, float]) -> Check:
    """Models trained on shuffled labels score no more than the majority class.

    by_model: by model, then horizon, the test accuracies; majority: by horizon. A leak is an excess that
    every shuffle has and that a t test over shuffles puts beyond chance (0.1%).
    """
    from scipy.stats import sem, t

    name = "shuffled labels"
    if not majority or not any(by_model.values()):
        return Check(name, NOT_APPLICABLE, "no test part, or labels of one class: nothing can be learnt")
    figures: dict[str, Any] = {}
    above, shown = [], []
    for model, by_horizon in by_model.items():
        for horizon, scores in by_horizon.items():
            mean, excess = float(np.mean(scores)), np.array(scores) - majority[horizon]
            error = float(sem(excess)) if len(scores) > 1 else float("inf")
            bound = float(t.ppf(_CERTAINTY, max(len(scores) - 1, 1))) * error
            if excess.min() > 0 and excess.mean() > bound:
                above.append(f"{model} at {horizon.removeprefix('h')} bars ({mean:.1%})")
            figures.setdefault(model, {})[horizon] = {
                "accuracy": mean, "low": min(scores), "high": max(scores), "majority": majority[horizon],
                "shuffles": len(scores),
            }  # fmt: skip
        if by_horizon:
            shown.append(f"{model} {_percentages(float(np.mean(s)) for s in by_horizon.values())}")
    scores_shown = f"{'; '.join(shown)}; majority {_percentages(majority.values())}"
    if above:
        return Check(
            name, FAIL, f"shuffled labels, yet above the majority class: {', '.join(above)}. {scores_shown}",
            "labels of the test part reach forecasts or scores by another way than learning", figures,
        )  # fmt: skip
    return Check(name, PASS, f"test accuracy after shuffled labels: {scores_shown}", "", figures)


def random_against_purged(
    context: Floats,
    y_dir: Floats,
    asof: NDArray[np.datetime64],
    rows: Mapping[str, NDArray[np.int64]],
    horizons: Sequence[int],
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores of two models by model, horizon and split (`purged` as the run has it, `random`).

    The random split takes the windows of all parts, and parts as large as the run's train and test.
    """
    pool = np.sort(np.concatenate(list(rows.values())))
    drawn = np.random.default_rng(seed).permutation(pool)
    train, test = rows["train"], rows["test"]
    splits = {"purged": (train, test), "random": (drawn[: len(train)], drawn[len(pool) - len(test) :])}
    kept = ("n", "accuracy", "accuracy_low", "accuracy_high", "majority")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in MODELS:
        for y, horizon in zip(y_dir.T, horizons, strict=True):
            for split, (fit_on, scored) in splits.items():
                prob = up_probability(kind, context[fit_on], y[fit_on], context[scored], seed)
                if prob is None:
                    continue
                zeros, resampling = np.zeros(len(scored)), Resampling(seed=seed)
                scores = horizon_metrics(zeros, prob, y[scored], asof[scored], horizons, resampling)
                by_split = found.setdefault(kind, {}).setdefault(f"h{horizon}", {})
                by_split[split] = {key: scores[key] for key in kept}
    return found


def check_random(found: Mapping[str, Mapping[str, Mapping[str, Any]]], run_is_random: bool) -> Check:
    """The gap that a careless split would report."""
    name = "random split"
    gaps = {}
    for kind, by_horizon in found.items():
        for horizon, splits in by_horizon.items():
            scores = [splits.get(split, {}).get("accuracy") for split in ("purged", "random")]
            if None not in scores:
                gaps[kind, horizon] = scores[1] - scores[0]
    if not gaps:
        return Check(name, NOT_APPLICABLE, "no test part, or labels of one class: nothing to compare")
    figures = {"scores": found}
    if run_is_random:
        return Check(name, FAIL, "the run's own split is random: see split", "split by date", figures)
    kind, horizon = max(gaps, key=gaps.__getitem__)
    purged, careless = (found[kind][horizon][split] for split in ("purged", "random"))
    measured = (
        f"{kind} at {horizon.removeprefix('h')} bars: {purged['accuracy']:.1%} under the run's split, "
        f"{careless['accuracy']:.1%} with the same windows split at random "
        f"(majority {purged['majority']:.1%} and {careless['majority']:.1%})"
    )
    advice = "the second is what a careless split would report: it is no forecast"
    return Check(name, INFO, measured, advice, figures)


def _percentages(values: Iterable[float]) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values) + "%"
