"""Whether what is known at a bar moves when later bars are others.

Legend: N bars of all series, n windows, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, VOLUME, Bars
from stockenh.evaluation.leakage import FAIL, INFO, NOT_APPLICABLE, PASS, WARN, Check, some
from stockenh.evaluation.metrics import horizon_metrics

NAME = "later bars"
_LEVEL = 1.3  # so far from the last known close the other path begins, up or down: no swing outlives it
_DAILY = 0.02


def other_bars(bars: Bars, after: np.datetime64, seed: int) -> Bars:
    """The same bars up to `after`, and from there a random walk with valid bars and other volumes.

    Series go the other level up and down in turn. The times stay, so that windows keep their numbers.
    """
    ohlcv = bars.ohlcv.copy()
    for series in range(len(bars.symbols)):
        rows = bars.rows(series)
        known = int(np.searchsorted(bars.time[rows], after, side="right"))
        start = rows.start + known
        if start == rows.stop:
            continue
        own = bars.ohlcv[rows][: max(known, 1)]
        level = own[-1, CLOSE] * (_LEVEL if (seed + series) % 2 else 1 / _LEVEL)
        rng = np.random.default_rng([seed, series])
        ohlcv[start : rows.stop] = _walk(rng, rows.stop - start, level, float(np.median(own[:, VOLUME])))
    return replace(bars, ohlcv=ohlcv)


def _walk(rng: np.random.Generator, n: int, level: float, volume: float) -> NDArray[np.float64]:
    close = level * np.exp(rng.normal(0, _DAILY, n).cumsum())
    opening = close * np.exp(rng.normal(0, _DAILY / 2, n))
    up, down = np.exp(np.abs(rng.normal(0, _DAILY / 2, (2, n))))
    return np.column_stack(
        [
            opening,
            np.maximum(opening, close) * up,
            np.minimum(opening, close) / down,
            close,
            np.round((volume + 1) * np.exp(rng.normal(0, 0.7, n))),
        ]
    )


def moved_rows(before: NDArray[np.generic], after: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(n, F) whether two arrays of that shape differ, to the last bit."""
    bits = np.dtype(f"u{before.dtype.itemsize}")
    differ = np.ascontiguousarray(before).view(bits) != np.ascontiguousarray(after).view(bits)
    return np.asarray(differ.reshape(len(before), -1))


def judge(
    moved: dict[str, int], compared: int, dates: int, symbols: int, noticed: bool, stale: Sequence[str] = ()
) -> Check:
    """moved: by the name of an input or output, how many windows it moved in. noticed: whether what lies
    after a changed bar moved at all. stale: features that the run has otherwise than they are made now."""
    names = sorted((name for name, count in moved.items() if count), key=lambda name: -moved[name])
    looked = f"{compared:,} windows up to {dates} dates of {symbols} symbol(s), every later bar replaced"
    figures = {"windows": compared, "dates": dates, "moved": {name: moved[name] for name in names}}
    if names:
        told = some([f"{name} (in {moved[name]:,})" for name in names], 6)
        return Check(
            NAME,
            FAIL,
            f"{looked}: {told} moved",
            "these see bars that nobody has yet: find the shift, the fill or the missing delay in their code",
            figures,
        )
    if stale:
        return Check(
            NAME,
            WARN,
            f"{looked}: nothing moved, but the cache holds other values of {some(stale)} than the code makes",
            "the run did not learn from what was checked: empty the cache (cache_dir) and train anew",
            figures,
        )
    if not noticed:
        return Check(
            NAME,
            WARN,
            f"{looked}: nothing moved, but neither did anything after them",
            "the features seem not to be computed from these bars: the check could see nothing",
            figures,
        )
    return Check(NAME, PASS, f"{looked}: inputs and forecasts the same to the last bit", "", figures)


Floats = NDArray[np.floating]
Accuracies = dict[str, list[float]]  # by horizon, one for each shuffle

MODELS = ("logistic regression", "gradient boosting")
_CERTAINTY = 0.999  # of the one-sided t test over shuffles


def shuffled_labels(
    symbol: NDArray[np.integer], asof: NDArray[np.datetime64], y_ret: Floats, block: int, seed: int
) -> Floats:
    """(n, H) the same returns in blocks of `block` rows in a row of one symbol, in another order.

    Blocks keep the overlap of neighbouring labels; they change symbols too, or a symbol's share of up would
    stay to be learnt.
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
    out = np.empty_like(y_ret)
    out[order] = y_ret[sources]
    return out


def direction_model(kind: str, seed: int) -> Any:
    """A scikit-learn classifier of direction on raw features."""
    if kind == "gradient boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def up_probability(kind: str, x: Floats, y_ret: Floats, asked: Floats, seed: int) -> Floats | None:
    """(k,) probability of up of the rows `asked` (k, F); None where the labels (n,) hold one class only.

    Rows without a label and returns of exactly 0 teach nothing.
    """
    taught = np.isfinite(y_ret) & (y_ret != 0)
    up = y_ret[taught] > 0
    if len(up) < 2 or up.all() or not up.any():
        return None
    model = direction_model(kind, seed).fit(x[taught].astype(np.float64), up)
    return np.asarray(model.predict_proba(asked.astype(np.float64))[:, 1])


def shares(up_prob: Floats, y_ret: Floats) -> tuple[float | None, float | None]:
    """Accuracy of direction and the majority class of one horizon, both (n,); None where undefined."""
    nowhere = np.zeros(len(y_ret))
    found = horizon_metrics(nowhere, up_prob, y_ret, nowhere, block=1, resamples=0)
    return found["accuracy"], found["majority"]


def check_shuffled(learnt: Mapping[str, Accuracies], majority: Mapping[str, float]) -> Check:
    """Models that were taught shuffled labels score no more than the majority class.

    learnt: by model, then horizon, the test accuracies; majority: by horizon. A leak is an excess that
    every shuffle has and that a t test over shuffles puts beyond chance (0.1%).
    """
    from scipy.stats import t

    name = "shuffled labels"
    if not majority or not any(learnt.values()):
        return Check(name, NOT_APPLICABLE, "no test part, or labels of one class: nothing can be learnt")
    figures: dict[str, Any] = {}
    above, told = [], []
    for model, by_horizon in learnt.items():
        for horizon, scores in by_horizon.items():
            mean, excess = float(np.mean(scores)), np.array(scores) - majority[horizon]
            error = float(np.std(excess, ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else float("inf")
            bound = float(t.ppf(_CERTAINTY, max(len(scores) - 1, 1))) * error if len(scores) > 1 else error
            if excess.min() > 0 and excess.mean() > bound:
                above.append(f"{model} at {horizon.removeprefix('h')} bars ({mean:.1%})")
            figures.setdefault(model, {})[horizon] = {
                "accuracy": mean, "low": min(scores), "high": max(scores), "majority": majority[horizon],
                "shuffles": len(scores),
            }  # fmt: skip
        if by_horizon:
            told.append(f"{model} {_joined(float(np.mean(s)) for s in by_horizon.values())}")
    beside = f"{'; '.join(told)}; majority {_joined(majority.values())}"
    if above:
        return Check(
            name, FAIL, f"taught nothing and yet above the majority class: {', '.join(above)}. {beside}",
            "labels of the test part reach forecasts or scores by another way than learning", figures,
        )  # fmt: skip
    return Check(name, PASS, f"test accuracy after shuffled labels: {beside}", "", figures)


def random_against_purged(
    context: Floats,
    y_ret: Floats,
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
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in MODELS:
        for column, horizon in enumerate(horizons):
            for split, (taught, asked) in splits.items():
                y = y_ret[:, column]
                prob = up_probability(kind, context[taught], y[taught], context[asked], seed)
                if prob is None:
                    continue
                scores = horizon_metrics(
                    np.zeros(len(asked)), prob, y[asked], asof[asked], block=max(horizons), seed=seed
                )
                of_horizon = found.setdefault(kind, {}).setdefault(f"h{horizon}", {})
                of_horizon[split] = {
                    k: scores[k] for k in ("n", "accuracy", "accuracy_low", "accuracy_high", "majority")
                }
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
        return Check(
            name, FAIL, "the run's own parts are such a split: see split", "split by date", figures
        )  # fmt: skip
    kind, horizon = max(gaps, key=gaps.__getitem__)
    purged, careless = (found[kind][horizon][split] for split in ("purged", "random"))
    measured = (
        f"{kind} at {horizon.removeprefix('h')} bars: {purged['accuracy']:.1%} under the run's split, "
        f"{careless['accuracy']:.1%} with the same windows split at random "
        f"(majority {purged['majority']:.1%} and {careless['majority']:.1%})"
    )
    return Check(
        name, INFO, measured, "the second is what a careless split would report: it is no forecast", figures
    )


def _joined(values: Iterable[float]) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values) + "%"
