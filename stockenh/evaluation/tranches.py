"""A portfolio of overlapping tranches: long the top and short the bottom of every day's forecasts.

Every bar opens one tranche and closes the one that has been held for as many bars as the forecast is ahead
(Jegadeesh and Titman 1993).

Legend: n rows (one symbol at one date), D dates, S symbols, Q quantiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, ratio
from stockenh.evaluation.portfolio import Curve, curve_figures

Ints = NDArray[np.int64]


def tranche_weights(quantile: Ints, date: Ints, symbol: Ints, shape: tuple[int, int], count: int) -> Floats:
    """(D, S) weights of the tranche that each date opens: equal shares that add up to 1 in the top quantile
    and to -1 in the bottom one; 0 on a date that lacks either. Arrays are (n,)."""
    top, bottom = np.zeros((2, *shape))
    for weights, wanted in ((top, count - 1), (bottom, 0)):
        rows = quantile == wanted
        weights[date[rows], symbol[rows]] = 1.0
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    both = top.any(axis=1, keepdims=True) & bottom.any(axis=1, keepdims=True)
    return np.where(both, top - bottom, 0.0)


def tranche_curve(opened: Floats, returns: Floats, held: int, cost_bps: float) -> Curve:
    """The curve of tranches of 1 / held of wealth each, opened with the weights `opened` (D, S).

    returns: (D, S) from each trade to the next, 0 where a symbol has none. A tranche drifts with prices until
    it is closed after `held` dates. What it and the new one have in common is not traded; `cost_bps` is paid
    on the rest. The first dates hold fewer tranches, and the last tranches are not closed.
    """
    dates, symbols = opened.shape
    tranches = np.zeros((held, symbols))
    turnover, gross = np.empty(dates), np.empty(dates)
    for day in range(dates):
        slot = day % held
        fresh = opened[day] / held
        turnover[day] = np.abs(fresh - tranches[slot]).sum()
        tranches[slot] = fresh
        gross[day] = (tranches @ returns[day]).sum()
        tranches *= (1 + returns[day]) / max(1 + gross[day], 1e-12)
    return Curve(gross - turnover * cost_bps / 1e4, gross, turnover)


def tranche_figures(
    curve: Curve, days: NDArray[np.datetime64], draws: BlockBootstrap | None
) -> dict[str, Any]:
    """`curve_figures`, and `break_even_bps break_even_low break_even_high`: the cost of traded value at which
    the mean return is 0, below 0 where it is so without costs."""
    found: dict[str, Any] = dict(curve_figures(curve, days, draws))
    found |= {"break_even_bps": None, "break_even_low": None, "break_even_high": None}
    if not curve.turnover.any():
        return found
    observed = 1e4 * float(curve.gross.sum() / curve.turnover.sum())
    found["break_even_bps"] = observed
    if draws is not None:
        gross, traded = draws.sums(np.stack([curve.gross, curve.turnover]))
        found["break_even_low"], found["break_even_high"] = draws.interval(
            observed, 1e4 * ratio(gross, traded)
        )
    return found
