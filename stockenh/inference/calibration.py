"""Calibration of direction forecasts: fitted on validation labels, applied to every forecast of a run.

Legend: k windows, H horizons, m rows of one horizon.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config

from stockenh.data import Exact
from stockenh.errors import RunFolderError
from stockenh.storage.untrusted import typed

Floats = NDArray[np.floating]
Dates = NDArray[np.datetime64]
Rows = NDArray[np.bool_]

FEWEST_LABELS = 30  # below, two parameters say more of the sample than of the model
BINS = 10
BLOCKS = 8  # of dates, each held out once
_TEMPERATURES = (0.05, 20.0)
_BIASES = (-20.0, 20.0)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Calibration:
    """Probability of up = sigmoid(logits / T + b), with T > 0 and b for each horizon.

    T alone is temperature scaling (Guo et al. 2017), which leaves a probability of 0.5 where it is. Some
    losses shift all logits, which no temperature can undo: there b is fitted too, Platt's form (1999), with
    T > 0 to keep the order of the forecasts. T = 1 and b = 0 is the identity.
    """

    temperature: tuple[Annotated[Exact, Field(ge=_TEMPERATURES[0], le=_TEMPERATURES[1])], ...]
    bias: tuple[Annotated[Exact, Field(ge=_BIASES[0], le=_BIASES[1])], ...]

    @classmethod
    def identity(cls, horizons: int) -> Calibration:
        return cls((1.0,) * horizons, (0.0,) * horizons)

    @classmethod
    def fit(
        cls, logits: Floats, y_dir: Floats, asof: Dates, horizons: Sequence[int], shifted: bool
    ) -> Calibration:
        """From rows that have a direction; logits and y_dir are (k, H), asof is (k,).

        shifted: whether the loss that was trained on shifts probabilities. Without, b is 0: it would be the
        base rate of these dates, which need not be that of later ones.

        (T, b) has the smallest log loss with a penalty ((log T)^2 + b^2) / 2n, as if both were drawn from a
        standard normal and n = dates / horizon observations were independent: symbols move together, and
        labels overlap. Each of T and b is kept where that lowers the log loss of blocks of dates held out in
        turn. A horizon with one class only, fewer than 30 rows, too few dates for two blocks or logits that
        are not finite keeps T = 1 and b = 0.
        """
        columns = zip(logits.T, y_dir.T, horizons, strict=True)
        fits = [_fit(z, y, asof, horizon, shifted) for z, y, horizon in columns]
        return cls(tuple(t for t, _ in fits), tuple(b for _, b in fits))

    @classmethod
    def unshrunk(cls, logits: Floats, y_dir: Floats) -> Calibration:
        """The smallest log loss of all (T, b), as runs before 1.0 have it; logits and y_dir are (k, H)."""
        counted = np.isfinite(y_dir) & (y_dir != 0)
        fits = [
            _shrunk(z[rows].astype(np.float64), y[rows] > 0, np.inf, True, True)
            if rows.sum() >= FEWEST_LABELS and np.isfinite(z[rows]).all()
            else (1.0, 0.0)
            for z, y, rows in zip(logits.T, y_dir.T, counted.T, strict=True)
        ]
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


def held_out_log_losses(
    logits: Floats, y_dir: Floats, asof: Dates, horizons: Sequence[int]
) -> tuple[float, float]:
    """Mean log loss of all rows and horizons with a direction, before and after calibration; 0 without a row.

    Each row is calibrated as `Calibration.fit` does it for a loss that shifts probabilities, with blocks of
    other dates: no label enters its own probability. logits and y_dir are (k, H), asof is (k,).
    """
    before, after, count = 0.0, 0.0, 0
    for column, direction, horizon in zip(logits.T, y_dir.T, horizons, strict=True):
        z, up, day = _moved(column, direction, asof)
        raw = float(_log_losses(z, up).sum())
        held_out = _best_choice(z, up, day, horizon, shifted=True)[1] if _is_enough(z) else None
        before, after, count = before + raw, after + (raw if held_out is None else held_out), count + len(z)
    return before / max(count, 1), after / max(count, 1)


def expected_calibration_error(up_prob: Floats, y_dir: Floats) -> float | None:
    """Mean distance between forecast and share of up over the bins of `reliability`, by their size (Naeini et
    al. 2015); None without a row."""
    forecast, share, count = reliability(up_prob, y_dir)
    if not len(count):
        return None
    error = float(np.sum(np.abs(forecast - share) * count) / np.sum(count))
    return error if math.isfinite(error) else None


def reliability(up_prob: Floats, y_dir: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean forecast, share of up and rows of each bin, by rising forecast; up_prob and y_dir are (m,).

    Up to ten bins of equal size, cut at deciles: forecasts of daily bars lie close to 0.5, where bins of
    equal width would hold all of them. Equal forecasts share a bin. Rows without a label and ties are left
    out.
    """
    counted = np.isfinite(y_dir) & (y_dir != 0)
    p, up = up_prob[counted].astype(np.float64), y_dir[counted] > 0
    if not len(p) or not np.isfinite(p).all():
        return np.empty(0), np.empty(0), np.empty(0, np.int64)
    place = bins_of(p)
    count = np.bincount(place)
    there = count > 0
    forecast, ups = np.bincount(place, p), np.bincount(place, up)
    return forecast[there] / count[there], ups[there] / count[there], count[there].astype(np.int64)


def bins_of(p: Floats) -> NDArray[np.int64]:
    """(m,) index of the bin of each forecast, see `reliability`; a bin may be empty."""
    edges = np.unique(np.quantile(p, np.arange(1, BINS) / BINS))
    return np.searchsorted(edges, p, side="right")


def reliability_curves(
    up_prob: Floats, y_dir: Floats, horizons: Sequence[int]
) -> dict[str, tuple[Floats, Floats, NDArray[np.int64]]]:
    """`reliability` of each horizon, as {"h3": ...}; arrays are (k, H)."""
    columns = zip(horizons, up_prob.T, y_dir.T, strict=True)
    return {f"h{horizon}": reliability(p, y) for horizon, p, y in columns}


Curves = Mapping[str, tuple[Floats, Floats, NDArray[np.int64]]]


def curves_as_lists(curves: Curves) -> dict[str, list[list[float]]]:
    """Curves of `reliability_curves` for JSON."""
    return {horizon: [values.tolist() for values in curve] for horizon, curve in curves.items()}


def curves_of_lists(lists: Mapping[str, Sequence[Sequence[float]]]) -> Curves:
    """The reverse of `curves_as_lists`. Raises ValueError where a horizon has other than three lists."""
    return {
        horizon: (np.array(forecast, float), np.array(share, float), np.array(rows, np.int64))
        for horizon, (forecast, share, rows) in lists.items()
    }


def _fit(logits: Floats, y_dir: Floats, asof: Dates, horizon: int, shifted: bool) -> tuple[float, float]:
    """(T, b) of one horizon."""
    z, up, day = _moved(logits, y_dir, asof)
    if not _is_enough(z):
        return 1.0, 0.0
    choice, _ = _best_choice(z, up, day, horizon, shifted)
    return _shrunk(z, up, len(np.unique(day)) / horizon, *choice)


def _moved(logits: Floats, y_dir: Floats, asof: Dates) -> tuple[Floats, Rows, NDArray[np.int64]]:
    """Of rows that have a direction: logits (m,), whether the return is above 0, the number of the date."""
    counted = np.isfinite(y_dir) & (y_dir != 0)
    day = np.unique(asof[counted], return_inverse=True)[1]
    return logits[counted].astype(np.float64), y_dir[counted] > 0, day


def _is_enough(z: Floats) -> bool:
    return len(z) >= FEWEST_LABELS and bool(np.isfinite(z).all())


def _best_choice(
    z: Floats, up: Rows, day: NDArray[np.int64], horizon: int, shifted: bool
) -> tuple[tuple[bool, bool], float | None]:
    """Which of T and b lower the log loss of dates held out, and its sum over the rows (m,) then; the sum is
    None where there are too few dates to hold any out."""
    folds = list(_folds(day, len(np.unique(day)), horizon))
    choices = ((False, False), (True, False), *(((False, True), (True, True)) if shifted else ()))
    losses = []
    for choice in choices:
        total = 0.0
        for train, held_out in folds:
            independent = len(np.unique(day[train])) / horizon
            t, b = _shrunk(z[train], up[train], independent, *choice)
            total += float(_log_losses(z[held_out] / t + b, up[held_out]).sum())
        losses.append(total)
    best = int(np.argmin(losses))  # of equal ones the first, which changes nothing
    return choices[best], losses[best] if folds else None


def _folds(day: NDArray[np.int64], days: int, horizon: int) -> Iterator[tuple[Rows, Rows]]:
    """Rows to fit on and rows held out, both (m,): blocks of dates, and an embargo of a horizon around each.

    None where the dates don't fill two blocks of a horizon.
    """
    blocks = min(BLOCKS, days // horizon)
    if blocks < 2:
        return
    edges = np.linspace(0, days, blocks + 1).astype(np.int64)
    for first, end in itertools.pairwise(edges):
        yield (day < first - horizon) | (day >= end + horizon), (day >= first) & (day < end)


def _shrunk(
    z: Floats, up: NDArray[np.bool_], independent: float, has_temperature: bool, has_bias: bool
) -> tuple[float, float]:
    """(T, b) of the smallest penalised log loss on logits z (m,) that all count, those that are not fitted
    at 1 and 0; (1, 0) with one class only."""
    if not (has_temperature or has_bias) or not len(up) or up.all() or not up.any():
        return 1.0, 0.0
    from scipy.optimize import minimize  # half a second to import, and a forecast does not need it

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_t, b = x
        scaled = z * np.exp(-log_t) + b
        value = float(np.mean(_log_losses(scaled, up))) + float(x @ x) / (2 * independent)
        residual = _sigmoid(scaled) - up
        slope = np.array([-np.mean(residual * (scaled - b)), np.mean(residual)])
        return value, slope + x / independent

    def bounds(limits: Sequence[float], fitted: bool) -> tuple[float, float]:
        return (limits[0], limits[1]) if fitted else (0.0, 0.0)

    found = minimize(
        loss,
        [0.0, 0.0],
        jac=True,
        method="L-BFGS-B",
        bounds=[bounds(np.log(_TEMPERATURES).tolist(), has_temperature), bounds(_BIASES, has_bias)],
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    if not np.isfinite(found.x).all() or not found.fun <= loss(np.zeros(2))[0]:
        return 1.0, 0.0
    return float(np.clip(np.exp(found.x[0]), *_TEMPERATURES)), float(np.clip(found.x[1], *_BIASES))


def _log_losses(logits: Floats, up: NDArray[np.bool_]) -> Floats:
    found: Floats = np.logaddexp(0, logits) - up * logits
    return found


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = 0.5 * (1 + np.tanh(x / 2))
    return out
