"""Calibration of direction forecasts: fitted on validation labels, applied to every forecast of a run.

Legend: k windows, H horizons, m rows of one horizon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config

from stockenh.data import Exact
from stockenh.errors import RunFolderError
from stockenh.storage.untrusted import typed

Floats = NDArray[np.floating]

FEWEST_LABELS = 30  # below, two parameters say more of the sample than of the model
BINS = 10
_TEMPERATURES = (0.05, 20.0)
_BIASES = (-20.0, 20.0)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Calibration:
    """Probability of up = sigmoid(logits / T + b), with T > 0 and b for each horizon.

    T alone is temperature scaling (Guo et al. 2017), which leaves a probability of 0.5 where it is. The
    focal loss with an alpha shifts all logits by a constant that no temperature can undo, so b is fitted
    too: Platt's form (1999), with T > 0 to keep the order of the forecasts. T = 1 and b = 0 is the identity.
    """

    temperature: tuple[Annotated[Exact, Field(ge=_TEMPERATURES[0], le=_TEMPERATURES[1])], ...]
    bias: tuple[Annotated[Exact, Field(ge=_BIASES[0], le=_BIASES[1])], ...]

    @classmethod
    def identity(cls, horizons: int) -> Calibration:
        return cls((1.0,) * horizons, (0.0,) * horizons)

    @classmethod
    def fit(cls, logits: Floats, y_ret: Floats) -> Calibration:
        """Smallest log loss on rows that have a label and moved; logits and y_ret are (k, H).

        A horizon with one class only, fewer than 30 such rows or logits that are not finite keeps T = 1 and
        b = 0. T = 20, the bound, says that the logits hold nothing on these labels: all forecasts come close
        to the share of up.
        """
        fits = [_fit(z, y) for z, y in zip(logits.T, y_ret.T, strict=True)]
        return cls(tuple(t for t, _ in fits), tuple(b for _, b in fits))

    def apply(self, logits: Floats) -> NDArray[np.float64]:
        """(k, H) logits to calibrated probabilities of up."""
        return _sigmoid(logits.astype(np.float64) / np.array(self.temperature) + np.array(self.bias))

    def to_dict(self) -> dict[str, list[float]]:
        return {"temperature": list(self.temperature), "bias": list(self.bias)}


def read_calibrations(values: object, horizons: int) -> dict[str, Calibration]:
    """What `calibration.json` holds, by the name of the weights. Raises RunFolderError."""
    found = typed(dict[str, Calibration], values, "calibration.json")
    if any({len(one.temperature), len(one.bias)} != {horizons} for one in found.values()):
        raise RunFolderError(f"calibration.json does not hold {horizons} numbers for {horizons} horizons")
    return found


def expected_calibration_error(up_prob: Floats, y_ret: Floats) -> float | None:
    """Mean distance between forecast and share of up over the bins of `reliability`, by their size (Naeini et
    al. 2015); None without a row."""
    forecast, share, count = reliability(up_prob, y_ret)
    if not len(count):
        return None
    error = float(np.sum(np.abs(forecast - share) * count) / np.sum(count))
    return error if math.isfinite(error) else None


def reliability(up_prob: Floats, y_ret: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean forecast, share of up and rows of each bin, by rising forecast; up_prob and y_ret are (m,).

    Up to ten bins of equal size, cut at deciles: forecasts of daily bars lie close to 0.5, where bins of
    equal width would hold all of them. Equal forecasts share a bin. Rows without a label and ties are left
    out.
    """
    counted = np.isfinite(y_ret) & (y_ret != 0)
    p, up = up_prob[counted].astype(np.float64), y_ret[counted] > 0
    if not len(p) or not np.isfinite(p).all():
        return np.empty(0), np.empty(0), np.empty(0, np.int64)
    edges = np.unique(np.quantile(p, np.arange(1, BINS) / BINS))
    place = np.searchsorted(edges, p, side="right")
    count = np.bincount(place, minlength=len(edges) + 1)
    there = count > 0
    forecast, ups = np.bincount(place, p)[: len(count)], np.bincount(place, up)[: len(count)]
    return forecast[there] / count[there], ups[there] / count[there], count[there].astype(np.int64)


def reliability_curves(
    up_prob: Floats, y_ret: Floats, horizons: Sequence[int]
) -> dict[str, tuple[Floats, Floats, NDArray[np.int64]]]:
    """`reliability` of each horizon, as {"h3": ...}; arrays are (k, H)."""
    columns = zip(horizons, up_prob.T, y_ret.T, strict=True)
    return {f"h{horizon}": reliability(p, y) for horizon, p, y in columns}


def _fit(logits: Floats, y_ret: Floats) -> tuple[float, float]:
    """(T, b) of one horizon."""
    counted = np.isfinite(y_ret) & (y_ret != 0)
    z, up = logits[counted].astype(np.float64), y_ret[counted] > 0
    if len(z) < FEWEST_LABELS or up.all() or not up.any() or not np.isfinite(z).all():
        return 1.0, 0.0
    from scipy.optimize import minimize  # half a second to import, and a forecast does not need it

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = z * x[0] + x[1]
        value = float(np.mean(np.logaddexp(0, scaled) - up * scaled))
        residual = _sigmoid(scaled) - up
        return value, np.array([np.mean(residual * z), np.mean(residual)])

    coldest, hottest = _TEMPERATURES
    found = minimize(
        loss,
        [1.0, 0.0],
        jac=True,
        method="L-BFGS-B",
        bounds=[(1 / hottest, 1 / coldest), _BIASES],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    if not np.isfinite(found.x).all() or not found.fun <= loss(np.array([1.0, 0.0]))[0]:
        return 1.0, 0.0
    temperature = float(np.clip(1 / found.x[0], coldest, hottest))
    return temperature, float(np.clip(found.x[1], *_BIASES))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = 0.5 * (1 + np.tanh(x / 2))
    return out
