"""Intervals of a reliability diagram's bins, by a bootstrap over dates.

Legend: n rows, H horizons, k bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import Floats, Resampling, ratio
from stockenh.inference.calibration import bins_of


def reliability_intervals(
    up_prob: Floats,
    y_dir: NDArray[np.floating],
    asof: NDArray[np.datetime64],
    horizons: Sequence[int],
    resampling: Resampling,
) -> dict[str, tuple[Floats, Floats]]:
    """Per horizon (k,) low and (k,) high: 95% of each bin's share of up, the bins of `reliability_curves`.

    up_prob, y_dir: (n, H); asof: (n,). NaN where the dates don't fill two blocks or a bin is on few of them.
    """
    found = {}
    for horizon, p, y in zip(horizons, up_prob.T, y_dir.T, strict=True):
        counted = np.isfinite(y) & (y != 0)
        up, days = y[counted] > 0, np.unique(asof[counted], return_inverse=True)[1]
        place, dates = (
            bins_of(p[counted].astype(np.float64)) if len(up) else np.empty(0, np.int64),
            np.unique(days),
        )
        bins = np.unique(place)
        draws = resampling.draw(len(dates), horizons)
        low, high = np.full((2, len(bins)), np.nan)
        for number, of_bin in enumerate(bins if draws is not None else ()):
            here = place == of_bin
            per_date = np.stack(
                [np.bincount(days[here], w, len(dates)) for w in (up[here], np.ones(here.sum()))]
            )
            assert draws is not None
            ends = draws.interval(
                float(up[here].mean()), ratio(*draws.sums(per_date.astype(np.float64))), (0.0, 1.0)
            )
            low[number], high[number] = (np.nan if end is None else end for end in ends)
        found[f"h{horizon}"] = low, high
    return found


Ends = Mapping[str, tuple[Floats, Floats]]


def ends_as_lists(ends: Ends) -> dict[str, list[list[float | None]]]:
    """Intervals for JSON, None where there is none."""
    return {
        horizon: [[end if np.isfinite(end) else None for end in side.tolist()] for side in both]
        for horizon, both in ends.items()
    }


def ends_of_lists(lists: Mapping[str, Sequence[Sequence[float | None]]]) -> Ends:
    """The reverse of `ends_as_lists`. Raises ValueError where a horizon has other than two lists."""
    return {horizon: (np.array(low, float), np.array(high, float)) for horizon, (low, high) in lists.items()}
