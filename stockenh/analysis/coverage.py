"""Selective accuracy: how right the least uncertain forecasts are, by the share of rows that they make.

Legend: n rows, D dates, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stockenh.analysis.bootstrap import BlockBootstrap, Floats, interval, ratio
from stockenh.analysis.scores import defined

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
