"""Scores of direction by group of rows, such as symbols or years.

Legend: n rows (one symbol at one date), H horizons.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from stockenh.evaluation.metrics import Metrics, log_losses


def breakdown(
    up_prob: NDArray[np.floating],
    y_dir: NDArray[np.floating],
    horizons: Sequence[int],
    group: NDArray[np.str_],
) -> dict[str, dict[str, Metrics]]:
    """{group: {"h3": {n, accuracy, majority, auc, log_loss}}}; groups in their order.

    up_prob, y_dir: (n, H), group: (n,). Rows without a label and ties are left out; without rows a figure is
    None. majority: the share of the larger class among the group's own rows.
    """
    names, place = np.unique(group, return_inverse=True)
    order = np.argsort(place, kind="stable")
    parts = np.split(order, np.searchsorted(place[order], np.arange(1, len(names))))
    return {
        str(name): {
            f"h{horizon}": _scores(up_prob[rows, column], y_dir[rows, column])
            for column, horizon in enumerate(horizons)
        }
        for name, rows in zip(names, parts, strict=True)
    }


def _scores(up_prob: NDArray[np.floating], y_dir: NDArray[np.floating]) -> Metrics:
    counted = np.isfinite(y_dir) & (y_dir != 0)
    p, up = up_prob[counted].astype(np.float64), y_dir[counted] > 0
    if not len(p):
        return {"n": 0, "accuracy": None, "majority": None, "auc": None, "log_loss": None}
    rises, share = int(up.sum()), float(up.mean())
    pairs = rises * (len(p) - rises)
    area = (float(rankdata(p)[up].sum()) - rises * (rises + 1) / 2) / pairs if pairs else None
    return {
        "n": len(p),
        "accuracy": float(((p > 0.5) == up).mean()),
        "majority": max(share, 1 - share),
        "auc": area,
        "log_loss": float(log_losses(p, up).mean()),
    }
