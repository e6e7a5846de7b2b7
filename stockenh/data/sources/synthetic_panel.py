"""`data=synthetic_panel`: symbols with a common factor and slow drifts, and the exact forecast of returns.

In units of the symbols' own volatility, the return of symbol s over bar t is b_s f(t) + m_s(t) + e_s(t). The
factor f and the noise e are standard normal. The drift m follows m(t) = PHI m(t - 1) + a shock, and nothing
but past returns tells of it. Open, high, low and volume are drawn given the closes, so they tell no more.
Legend: T bars, S symbols, N = S T rows, H horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.cache import DiskCache
from stockenh.data.sources import Loaded
from stockenh.data.sources.synthetic import OVERNIGHT, SyntheticData, ohlc_of, random_stream

Floats = NDArray[np.float64]

VOLATILITY = 0.015  # of a bar's own noise, the same for all symbols: ranks then follow the mean
FACTOR = 0.6  # deviation of the factor in units of it, for a beta of 1; betas lie from 0.5 to 1.5
PHI = 0.95  # of the drift per bar
DRIFT = 0.1  # deviation of the drift at strength 1, in units of VOLATILITY
VOLUME_NOISE = 0.35  # in log volume


@dataclass(frozen=True)
class SyntheticPanel(SyntheticData):
    """A generated market whose best cross-sectional forecast is known.

    strength: of the drifts; 0 is pure noise, at 1 the best rank IC is about 0.04 at 3 bars and 0.06 at 10
    """

    symbols: Annotated[int, Field(ge=3, le=100_000)] = 100  # fewer have no rank IC

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        bars = generate(self)
        windows = self._windows(bars, cache, labels)
        best = best_forecasts(bars, self, self.horizons)
        return Loaded(
            replace(windows, best_prob=best.up_prob[windows.end], best_score=best.mean[windows.end])
        )


@dataclass(frozen=True)
class BestForecasts:
    """(N, H) mean of the log return over the next bars given all bars up to now, and chance of a rise."""

    mean: Floats
    up_prob: Floats


def generate(settings: SyntheticPanel) -> Bars:
    """The bars of all symbols on the same business days.

    A symbol's bars depend on the seed and its number alone: more symbols or more bars change no others.
    Prices are rounded to float32, as those of `data=synthetic`.
    """
    days = np.busday_offset(settings.start, np.arange(settings.bars), roll="forward")
    factor = random_stream(settings, 0, 0).standard_normal(settings.bars)
    numbers = range(1, settings.symbols + 1)
    return Bars.from_series([(f"SYN{n:03}", days, _series(settings, n, factor)) for n in numbers])


def best_forecasts(bars: Bars, settings: SyntheticPanel, horizons: Sequence[int]) -> BestForecasts:
    """The forecasts of a Kalman (1960) filter that knows the market and sees every symbol's bars.

    The noise of a bar has the covariance I + b b', and all drifts have one variance. So the filter of S
    drifts falls into two parts with one gain each: along b, and orthogonal to it. No forecast from these bars
    has a lower squared error, and of two symbols of a day the one with the higher mean is likelier to do
    better.
    """
    close = np.log(bars.ohlcv[:, CLOSE]).reshape(len(bars.symbols), -1).T  # (T, S)
    b = loadings(settings)
    along = b / np.linalg.norm(b)
    variance = (settings.strength * DRIFT) ** 2
    shock = variance * (1 - PHI**2)
    noise = np.array([1 + b @ b, 1.0])  # along b, and orthogonal to it
    uncertain, drift = np.full(2, variance), np.zeros(len(b))
    drifts, variances = np.empty_like(close), np.empty_like(close)
    for t in range(len(close)):
        drift, uncertain = PHI * drift, PHI**2 * uncertain + shock
        if t:  # the first bar has no close before it
            gain = uncertain / (uncertain + noise)
            news = (close[t] - close[t - 1]) / VOLATILITY - drift
            common = along * (along @ news)
            drift = drift + gain[0] * common + gain[1] * (news - common)
            uncertain = (1 - gain) * uncertain
        drifts[t], variances[t] = drift, uncertain[0] * along**2 + uncertain[1] * (1 - along**2)
    means, probabilities = [], []
    for horizon in horizons:
        carry = carried(horizon)
        later = shock * sum((1 + carried(k)) ** 2 for k in range(horizon))
        spread = np.sqrt(horizon * (1 + b**2) + carry**2 * variances + later)
        means.append(VOLATILITY * carry * drifts)
        probabilities.append(_normal(carry * drifts / spread))
    by_row = ((np.stack(each, -1).swapaxes(0, 1)).reshape(len(bars), -1) for each in (means, probabilities))
    return BestForecasts(*by_row)


def carried(horizon: int) -> float:
    """PHI + ... + PHI^horizon: what a drift of 1 adds up to over the next bars."""
    return PHI * (1 - PHI**horizon) / (1 - PHI)


def loadings(settings: SyntheticPanel) -> Floats:
    """(S,) of the factor: beta times its deviation."""
    return np.array([FACTOR * _traits(settings, n).beta for n in range(1, settings.symbols + 1)])


@dataclass(frozen=True)
class _Traits:
    """The parameters of one symbol; volume is that of a mean bar."""

    beta: float
    price: float
    volume: float


def _traits(settings: SyntheticPanel, number: int) -> _Traits:
    beta, price, volume = random_stream(settings, number, 0).random_sample(3)
    return _Traits(0.5 + beta, 20 * 10**price, 3e5 * 100**volume)


def _series(settings: SyntheticPanel, number: int, factor: Floats) -> Floats:
    """(T, 5) bars of one symbol in a market with this factor (T,)."""
    traits = _traits(settings, number)
    loading = FACTOR * traits.beta
    normal = random_stream(settings, number, 1).standard_normal((settings.bars, 4))
    uniform = random_stream(settings, number, 2).random_sample((settings.bars, 2))
    scale = settings.strength * DRIFT
    shocks = scale * np.append(1.0, np.full(settings.bars - 1, np.sqrt(1 - PHI**2))) * normal[:, 0]
    drift = np.array(list(accumulate(shocks.tolist(), lambda past, shock: PHI * past + shock)))
    moved = VOLATILITY * (loading * factor + drift + normal[:, 1])
    deviation = np.full(settings.bars, VOLATILITY * np.sqrt(1 + loading**2))
    gap = OVERNIGHT * moved + np.sqrt(OVERNIGHT * (1 - OVERNIGHT)) * deviation * normal[:, 2]
    prices = ohlc_of(traits.price, gap, moved - gap, deviation, uniform)
    volume = np.rint(traits.volume * np.exp(VOLUME_NOISE * normal[:, 3]))
    return np.column_stack([prices.astype(np.float64), volume])


def _normal(z: Floats) -> Floats:
    """The standard normal distribution function."""
    from scipy.special import ndtr  # slow to import, and other data do without

    return np.asarray(ndtr(z), np.float64)
