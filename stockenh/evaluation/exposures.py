"""What a forecast may only repeat: a symbol's past return, volatility and size, and the market's volatility.

All are known at the close of the row's bar and computed from bars of one series, whose closes and dollar
volumes are arrays (N,) over all series one after another.

Legend: N bars, n rows (one symbol at one date), D dates, k exposures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.quantiles import day_ranks

Ints = NDArray[np.int64]

REVERSAL, VOLATILITY, SIZE = 5, 60, 60  # bars
MOMENTUM, SKIPPED = 250, 20  # bars ago that it begins and ends
MOST = 0.9  # of the rows must have the bars that an exposure takes
ROWS_PER_EXPOSURE = 2  # symbols of a date for each coefficient of its regression, at least
_VALUES_AT_ONCE = 2**23


@dataclass(frozen=True)
class Exposures:
    """values: (n, k) of each row, NaN where the series begins too late; names: k; bars: k, what each is over,
    in words."""

    values: Floats
    names: tuple[str, ...]
    bars: tuple[str, ...]

    def of(self, name: str) -> Floats | None:
        """(n,) of one exposure; None where the bars don't allow it."""
        return self.values[:, self.names.index(name)] if name in self.names else None


def exposures(close: Floats, dollars: Floats, end: Ints, before: Ints) -> Exposures:
    """Reversal, momentum, volatility and size at the bars `end` (n,) with `before` (n,) bars of their series
    before them.

    Where fewer than nine of ten rows have the bars that one takes, it takes as many as these have; momentum
    is left out where that is not twice what it skips.
    """
    usual = int(np.quantile(before, 1 - MOST, method="lower"))
    reversal, volatility = min(REVERSAL, usual), min(VOLATILITY, usual)
    momentum, size = min(MOMENTUM, usual), min(SIZE, usual + 1)
    found: dict[str, tuple[Floats, str]] = {}
    if reversal:
        found["reversal"] = _past_return(close, end, before, reversal, 0), f"{reversal} bars"
    if momentum >= 2 * SKIPPED:
        moved = _past_return(close, end, before, momentum, SKIPPED)
        found["momentum"] = moved, f"{momentum} to {SKIPPED} bars ago"
    if volatility > 1:
        moves = np.zeros(len(close))
        moves[1:] = close[1:] / close[:-1] - 1
        squares = _trailing(moves, end, before >= volatility, volatility, np.std)
        found["volatility"] = squares, f"{volatility} bars"
    mean = _trailing(dollars, end, before + 1 >= size, size, np.mean)
    found["size"] = np.log(np.maximum(mean, 1.0)), f"{size} bars"
    values = np.stack([array for array, _ in found.values()], axis=1)
    return Exposures(values, tuple(found), tuple(bars for _, bars in found.values()))


def _past_return(close: Floats, end: Ints, before: Ints, since: int, until: int) -> Floats:
    known = before >= since
    first, last = np.where(known, end - since, 0), np.where(known, end - until, 0)
    return np.where(known, close[last] / close[first] - 1, np.nan)


def _trailing(
    values: Floats, end: Ints, known: NDArray[np.bool_], bars: int, of: Callable[..., Floats]
) -> Floats:
    """(n,) a figure of the last `bars` values (N,) up to each end, NaN where they are not known."""
    found = np.full(len(end), np.nan)
    rows, size = np.flatnonzero(known), max(1, _VALUES_AT_ONCE // bars)
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        found[some] = of(values[end[some, None] + np.arange(1 - bars, 1)], axis=1)
    return found


def market_volatility(
    close: Floats, time: NDArray[np.datetime64], is_first: NDArray[np.bool_]
) -> tuple[NDArray[np.datetime64], Floats]:
    """Times (T,), and the standard deviation of the mean return of all symbols over the last 60 of them.

    NaN for the first 60. close, time: (N,); is_first: (N,) the bars that begin a series.
    """
    moves = close[1:] / close[:-1] - 1
    times, place = np.unique(time[1:][~is_first[1:]], return_inverse=True)
    mean = np.bincount(place, moves[~is_first[1:]]) / np.bincount(place)
    found = np.full(len(times), np.nan)
    if len(times) >= VOLATILITY:
        inside = np.lib.stride_tricks.sliding_window_view(mean, VOLATILITY)
        found[VOLATILITY - 1 :] = inside.std(axis=1)
    return times, found


def normal_scores(values: Floats, date: Ints) -> Floats:
    """(n,) ndtri((rank - 0.5) / n) within a date; equal values share their mean rank."""
    from scipy.special import ndtri

    return np.asarray(ndtri((day_ranks(values, date) - 0.5) / np.bincount(date)[date]), np.float64)


def residual(signal: Floats, of: Floats, date: Ints, dates: int) -> Floats:
    """(n,) what is left of a signal (n,) when exposures (n, k) are taken out, date by date.

    Least squares on a constant and the normal scores of the exposures, for the normal score of the signal.
    NaN where an exposure is not known and on dates with fewer than 2 (k + 1) symbols; 0 where nothing is
    left.
    """
    found = np.full(len(signal), np.nan)
    known = np.flatnonzero(np.isfinite(of).all(axis=1) & np.isfinite(signal))
    least = ROWS_PER_EXPOSURE * (of.shape[1] + 1)
    known = known[np.bincount(date[known], minlength=dates)[date[known]] >= least]
    if not len(known):
        return found
    known = known[np.argsort(date[known], kind="stable")]
    day, begins = np.unique(date[known], return_index=True)
    place = np.repeat(np.arange(len(day)), np.diff(np.append(begins, len(known))))
    y = normal_scores(signal[known], place)
    x = np.stack([np.ones(len(known)), *(normal_scores(column, place) for column in of[known].T)], axis=1)
    squares = np.add.reduceat(x[:, :, None] * x[:, None, :], begins)  # (days, k + 1, k + 1)
    products = np.add.reduceat(x * y[:, None], begins)
    # a pseudo-inverse, because an exposure may be the same for all symbols of a date
    coefficients = np.einsum("dij,dj->di", np.linalg.pinv(squares, rcond=1e-10, hermitian=True), products)
    left = y - (x * coefficients[place]).sum(axis=1)
    share = np.bincount(place, left**2) / np.maximum(np.bincount(place, y**2), 1e-12)
    # rounded, so that symbols that are alike stay alike
    found[known] = np.where(share[place] > 1e-12, np.round(left, 12), 0.0)
    return found
