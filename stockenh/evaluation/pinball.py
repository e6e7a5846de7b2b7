"""Scores of quantile forecasts: the pinball loss against that of the train quantiles, coverage of intervals.

Legend: n rows (one symbol at one date), H horizons, Q quantile levels, D dates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, Resampling, ratio
from stockenh.evaluation.metrics import defined
from stockenh.evaluation.summary import Part
from stockenh.inference.conformal import HIGH, LOW, has_interval

UNBOUNDED, SHARE = (-np.inf, np.inf), (0.0, 1.0)


@dataclass(frozen=True)
class QuantileForecasts:
    """levels: Q; quantiles: (n, H, Q) in raw units; of_train: (n, H, Q) those of the train labels, and
    interval: (n, H, 2) the conformal one, None where they are not known."""

    levels: tuple[float, ...]
    quantiles: Floats
    of_train: Floats | None
    interval: Floats | None

    def take(self, rows: NDArray[np.int64]) -> QuantileForecasts:
        """Those of these rows only."""
        of_train, interval = (None if x is None else x[rows] for x in (self.of_train, self.interval))
        return QuantileForecasts(self.levels, self.quantiles[rows], of_train, interval)

    @classmethod
    def pooled(cls, several: Sequence[QuantileForecasts | None]) -> QuantileForecasts | None:
        """The rows of several runs; None where one has no quantiles."""
        known = [one for one in several if one is not None]
        if len(known) < len(several):
            return None

        def joined(arrays: list[Floats | None]) -> Floats | None:
            there = [array for array in arrays if array is not None]
            return np.concatenate(there) if len(there) == len(arrays) else None

        return cls(
            known[0].levels,
            np.concatenate([one.quantiles for one in known]),
            joined([one.of_train for one in known]),
            joined([one.interval for one in known]),
        )


def quantile_figures(
    part: Part, forecasts: QuantileForecasts, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """Per horizon `pinball pinball_train against coverage conformal width conformal_width`.

    pinball, coverage, conformal: `value low high` of the loss, of the share of labels from the 10% to the 90%
    quantile, and of those in the conformal interval; pinball_train: the loss of the train quantiles; against:
    `value low high` of the loss less that; width: mean width of an interval. None where it is not known.
    """
    found = {}
    for column, horizon in enumerate(part.horizons):
        labelled = part.labelled(column)
        draws = resampling.draw(len(labelled.days), part.horizons)
        of_rows = forecasts.take(np.flatnonzero(labelled.rows))
        y, date, levels = labelled.y_ret, labelled.date, of_rows.levels
        loss, loss_of_train = (
            None if q is None else pinball(q[:, column], y, levels)
            for q in (of_rows.quantiles, of_rows.of_train)
        )
        assert loss is not None
        ends: dict[str, Floats | None] = {"": None, "conformal": None}
        if has_interval(levels):
            ends[""] = of_rows.quantiles[:, column][:, [levels.index(LOW), levels.index(HIGH)]]
        if of_rows.interval is not None:
            ends["conformal"] = of_rows.interval[:, column]
        covered = {
            name: None if of is None else ((of[:, 0] <= y) & (y <= of[:, 1])).astype(np.float64)
            for name, of in ends.items()
        }
        difference = None if loss_of_train is None else loss - loss_of_train
        found[f"h{horizon}"] = {
            "pinball": _mean(loss, date, draws, (0.0, np.inf)),
            "pinball_train": None if loss_of_train is None else defined(loss_of_train.mean()),
            "against": _mean(difference, date, draws, UNBOUNDED),
            "coverage": _mean(covered[""], date, draws, SHARE),
            "conformal": _mean(covered["conformal"], date, draws, SHARE),
            "width": _width(ends[""]),
            "conformal_width": _width(ends["conformal"]),
        }
    return found


def pinball(quantiles: Floats, y: Floats, levels: Sequence[float]) -> Floats:
    """(n,) mean over the levels of the pinball loss (Koenker and Bassett 1978); quantiles (n, Q), y (n,)."""
    missed, level = y[:, None] - quantiles, np.array(levels)
    return np.asarray(np.maximum(level * missed, (level - 1) * missed).mean(1), np.float64)


def _mean(
    values: Floats | None, date: NDArray[np.int64], draws: BlockBootstrap | None, bounds: tuple[float, float]
) -> dict[str, float | None] | None:
    """`value low high` of rows (n,) with 95% by moving-block bootstrap over dates."""
    if values is None or not len(values):
        return None
    low = high = None
    mean = float(values.mean())
    if draws is not None:
        count = np.bincount(date).astype(np.float64)
        total, rows = draws.sums(np.stack([np.bincount(date, values), count]))
        low, high = draws.interval(mean, ratio(total, rows), bounds)
    return {"value": defined(mean), "low": low, "high": high}


def _width(ends: Floats | None) -> float | None:
    return None if ends is None or not len(ends) else defined((ends[:, 1] - ends[:, 0]).mean())
