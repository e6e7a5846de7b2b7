"""Intervals that cover what they say: quantiles widened on validation, per horizon.

Legend: k windows, H horizons, Q quantile levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config

from stockenh.data import Exact
from stockenh.errors import RunFolderError
from stockenh.inference.calibration import FEWEST_LABELS
from stockenh.storage.untrusted import typed

Floats = NDArray[np.float64]

LOW, HIGH, MEDIAN = 0.1, 0.9, 0.5
SHARE = HIGH - LOW  # of the labels that an interval is to cover


def has_interval(levels: Sequence[float]) -> bool:
    """Whether quantiles of these levels have an interval to widen."""
    return {LOW, HIGH, MEDIAN} <= set(levels)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Conformal:
    """Conformalised quantile regression (Romano, Patterson and Candes 2019): what is added on both sides.

    widening: H numbers in raw units of the target; below 0 they narrow the interval
    """

    widening: tuple[Annotated[Exact, Field(ge=-1e9, le=1e9)], ...]

    @classmethod
    def fit(cls, quantiles: Floats, levels: Sequence[float], y_ret: NDArray[np.floating]) -> Conformal:
        """From the quantiles (k, H, Q) and labels (k, H) of validation, NaN where there is none.

        The smallest widening with which the interval covers (n + 1) 80% of the n labels, rounded up. A
        horizon with fewer than 30 labels, or forecasts that are not finite, is left as it is.
        """
        low, high = (quantiles[..., list(levels).index(level)] for level in (LOW, HIGH))
        missed = np.maximum(low - y_ret, y_ret - high)
        return cls(
            tuple(_smallest(column[np.isfinite(y)]) for column, y in zip(missed.T, y_ret.T, strict=True))
        )

    def interval(self, quantiles: Floats, levels: Sequence[float]) -> Floats:
        """(k, H, 2) lower and upper end of the quantiles (k, H, Q); the median is never outside."""
        low, middle, high = (quantiles[..., list(levels).index(level)] for level in (LOW, MEDIAN, HIGH))
        widening = np.array(self.widening)
        return np.stack([np.minimum(low - widening, middle), np.maximum(high + widening, middle)], -1)

    def to_dict(self) -> dict[str, Any]:
        return {"widening": list(self.widening)}


def read_conformals(values: object, horizons: int) -> dict[str, Conformal]:
    """What `conformal.json` holds, by the name of the weights. Raises RunFolderError."""
    found = typed(dict[str, Conformal], values, "conformal.json")
    if any(len(one.widening) != horizons for one in found.values()):
        raise RunFolderError(f"conformal.json does not hold {horizons} numbers for {horizons} horizons")
    return found


def _smallest(missed: Floats) -> float:
    """Of how far labels lie outside (below 0: inside), the order statistic that covers the share."""
    if len(missed) < FEWEST_LABELS or not np.isfinite(missed).all():
        return 0.0
    # rounded, for the share itself is a difference of two levels
    place = math.ceil(round((len(missed) + 1) * SHARE, 9))
    return float(np.sort(missed)[min(place, len(missed)) - 1])
