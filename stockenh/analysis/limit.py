"""What the best possible forecast would score, where it is known, and how near a model comes to it.

Legend: n rows (one symbol at one date), H horizons.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stockenh.analysis.metrics import PROBABILITY_FLOOR, Floats, Metrics

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
