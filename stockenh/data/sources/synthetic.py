"""`data=synthetic`: a market driven by hidden Markov chains, and the exact probabilities of its moves.

Everything is exact up to rounding. Legend: T bars, S series, K states of a chain, H horizons.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stockenh.data import Date, Seed, require_memory
from stockenh.data.bars import CLOSE, HIGH, LOW, OPEN, VOLUME, Bars
from stockenh.data.cache import DiskCache
from stockenh.data.sources import BarData, Loaded

Floats = NDArray[np.float64]

_NODES = 512  # of the integral; half as many already give 1e-12
_CUT = 9.0  # standard deviations of the narrowest sum in frequency; the rest is below 1e-17
_LEAST = -600.0  # log-likelihood relative to the likeliest state; exp of it is still above zero


def stationary(transition: Floats) -> Floats:
    """(K,) the stationary distribution of a chain (K, K) whose rows are the states it leaves."""
    k = len(transition)
    equations = np.vstack([transition.T - np.eye(k), np.ones(k)])
    return np.asarray(np.linalg.lstsq(equations, np.append(np.zeros(k), 1.0), rcond=None)[0])


def walk(transition: Floats, uniform: Floats) -> NDArray[np.int64]:
    """(T,) states of a stationary chain, each drawn with one number from [0, 1)."""
    edges = [row.cumsum()[:-1].tolist() for row in transition]
    state = bisect(stationary(transition).cumsum()[:-1].tolist(), float(uniform[0]))
    path = [state]
    for number in uniform[1:].tolist():
        state = bisect(edges[state], number)
        path.append(state)
    return np.array(path, np.int64)


def filtered(evidence: Floats, transition: Floats) -> Floats:
    """(T, S, K) probability of each state given the evidence up to and including that bar (Hamilton 1989).

    evidence: (T, S, K) log-likelihood of a bar's values in each state, up to a constant
    """
    weight = np.exp(np.maximum(evidence - evidence.max(-1, keepdims=True), _LEAST))
    belief = np.broadcast_to(stationary(transition), evidence.shape[1:])
    beliefs = np.empty_like(evidence)
    for t in range(len(evidence)):
        belief = belief @ transition * weight[t]
        belief /= belief.sum(-1, keepdims=True)
        beliefs[t] = belief
    return beliefs


def up_probability(transition: Floats, mean: Floats, deviation: Floats, horizons: Sequence[int]) -> Floats:
    """(K, H) probability that the next h returns add up to more than 0, by the current state.

    A return is normal with the mean and deviation (K,) of its bar's state. The characteristic function of
    the sum from each state is a product of h matrices; its sign follows from Gil-Pelaez's (1951) integral.
    """
    columns = []
    for horizon in horizons:
        width = _CUT / (np.sqrt(horizon) * deviation.min()) / _NODES
        frequency = (np.arange(_NODES)[:, None] + 0.5) * width
        one = np.exp(1j * frequency * mean - 0.5 * (frequency * deviation) ** 2)  # (nodes, K)
        total = np.ones_like(one)
        for _ in range(horizon):
            total = (one * total) @ transition.T
        columns.append(0.5 + (total.imag / frequency).sum(0) * width / np.pi)
    return np.column_stack(columns)


TRENDS = np.array([-1.0, 0.0, 1.0])
TREND_BARS, PAUSE_BARS = 25, 5  # mean lengths of a trend and of a pause
DRIFT = 0.64  # of a trend per bar, in units of the symbol's mean volatility, at strength 1

VOLATILITIES = np.array([0.7, 0.9, 1.15, 1.45])  # in units of the symbol's mean volatility
LEANING = np.array(
    [1.0, 1.0, -1.0, -1.0]
)  # whether volume leans with the trend or against it at each of them
VOLATILITY_BARS = 25

OVERNIGHT = 0.3  # the gap's share of the variance between two closes
VOLUME_BY_VOLATILITY = 0.7  # exponent
VOLUME_BY_TREND, VOLUME_NOISE = 0.45, 0.35  # in log volume


_BYTES_OF_A_BAR = 500  # while it is made: states, filters and features


@dataclass(frozen=True)
class SyntheticData(BarData):
    """A generated market whose best forecast is known. It is cheaper to generate than to cache.

    strength: of the drift; 0 is pure noise, at 1 the best forecast is right about 80% of the time at 5 bars
    start:    the first business day, as 2012-01-02
    """

    generated = True
    symbols: Annotated[int, Field(ge=1, le=100_000)] = 30
    bars: Annotated[int, Field(ge=1, le=1_000_000)] = 2000  # of business days, to about the year 5800
    seed: Seed = 0
    strength: Annotated[float, Field(ge=0, le=3)] = 1.0
    start: Date = "2012-01-02"

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = self.symbols * self.bars * _BYTES_OF_A_BAR
        require_memory(needed, f"data.symbols={self.symbols} times data.bars={self.bars}")

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        bars = generate(self)
        windows = self._windows(bars, cache, labels)
        best_prob = best_probabilities(bars, self, self.horizons)[windows.end]
        return Loaded(replace(windows, best_prob=best_prob))


@dataclass(frozen=True)
class _States:
    """The joint states of trend and volatility: their chain (K, K), and a bar's parameters in each (K,)."""

    transition: Floats
    drift: Floats
    deviation: Floats
    volume: Floats


@dataclass(frozen=True)
class _Traits:
    """The parameters of one symbol; volatility and volume are those of a mean bar."""

    volatility: float
    price: float
    volume: float


def generate(settings: SyntheticData) -> Bars:
    """The bars of all symbols on the same business days.

    A symbol's bars depend on the seed and its number alone: more symbols or more bars change no others.
    Prices are rounded to float32, so that machines whose exponentials differ in the last bit make the same
    bars.
    """
    days = np.busday_offset(settings.start, np.arange(settings.bars), roll="forward")
    level = walk(_volatility_chain(), random_stream(settings, 0, 0).random_sample(settings.bars))
    numbers = range(1, settings.symbols + 1)
    return Bars.from_series([(f"SYN{n:03}", days, _series(settings, n, level)) for n in numbers])


def best_probabilities(bars: Bars, settings: SyntheticData, horizons: Sequence[int]) -> Floats:
    """(N, H) probability that the close h bars on is higher, given the symbol's own bars up to now.

    No forecast from these bars beats it in the long run. It knows the market's parameters and each symbol's
    mean volatility and volume; the first bar, which has no close before it, is ignored.
    """
    states = _states(settings.strength)
    evidence = [
        _evidence(bars.ohlcv[bars.rows(series)], _traits(settings, series + 1), states)
        for series in range(len(bars.symbols))
    ]
    beliefs = filtered(np.stack(evidence, axis=1), states.transition)  # (T, S, K)
    up = up_probability(states.transition, states.drift, states.deviation, horizons)
    return np.asarray((beliefs.swapaxes(0, 1) @ up).reshape(len(bars), len(horizons)))


def _series(settings: SyntheticData, number: int, level: NDArray[np.int64]) -> Floats:
    """(T, 5) bars of one symbol in a market with these levels (T,) of volatility."""
    traits = _traits(settings, number)
    normal = random_stream(settings, number, 1).standard_normal((settings.bars, 3))
    uniform = random_stream(settings, number, 2).random_sample((settings.bars, 3))
    trend = walk(_trend_chain(), uniform[:, 0])
    deviation = traits.volatility * VOLATILITIES[level]
    drift = settings.strength * DRIFT * traits.volatility * TRENDS[trend]
    gap = drift + np.sqrt(OVERNIGHT) * deviation * normal[:, 0]
    session = np.sqrt(1 - OVERNIGHT) * deviation * normal[:, 1]
    prices = ohlc_of(traits.price, gap, session, deviation, uniform[:, 1:])
    mean_volume = np.log(traits.volume) + _volume(TRENDS[trend], level)
    volume = np.rint(np.exp(mean_volume + VOLUME_NOISE * normal[:, 2]))
    return np.column_stack([prices.astype(np.float64), volume])


def ohlc_of(
    price: float, gap: Floats, session: Floats, deviation: Floats, uniform: Floats
) -> NDArray[np.float32]:
    """(T, 4) prices of a Brownian motion with these log returns (T,) overnight and in session.

    price: before the first bar; deviation: (T,) of the return between two closes, of which a session has the
    share 1 - OVERNIGHT in variance; uniform: (T, 2) numbers from [0, 1)
    """
    close = np.log(price) + np.cumsum(gap + session)
    open_ = close - session
    # the maximum of a Brownian bridge, by inversion: P(above y) = exp(-2 (y - open) (y - close) / variance)
    spread = np.sqrt(session**2 - 2 * (1 - OVERNIGHT) * deviation**2 * np.log1p(-uniform.T))  # (2, T)
    high, low = (open_ + close + spread[0]) / 2, (open_ + close - spread[1]) / 2
    return np.asarray(np.exp(np.column_stack([open_, high, low, close])), np.float32)


def _evidence(ohlcv: Floats, traits: _Traits, states: _States) -> Floats:
    """(T, K) log-likelihood of each bar of one symbol in each state, up to a constant."""
    open_, high, low, close = np.log(ohlcv[:, [OPEN, HIGH, LOW, CLOSE]]).T / traits.volatility
    gap = open_ - np.append(open_[0], close[:-1])
    session = close - open_
    extremes = 2 * (high - open_) * (high - close) + 2 * (open_ - low) * (close - low)
    noise = (0.5 * session**2 + extremes) / (1 - OVERNIGHT)
    volume = np.log(np.maximum(ohlcv[:, VOLUME], 1.0) / traits.volume)
    variance = states.deviation**2
    evidence = (
        -0.5 * (gap[:, None] - states.drift) ** 2 / (OVERNIGHT * variance)
        - noise[:, None] / variance
        - 6 * np.log(states.deviation)  # gap and session one each, the two extremes two each
        - 0.5 * ((volume[:, None] - states.volume) / VOLUME_NOISE) ** 2
    )
    evidence[0] = 0
    return np.asarray(evidence)


def _states(strength: float) -> _States:
    trend, level = (index.ravel() for index in np.indices((len(TRENDS), len(VOLATILITIES))))
    return _States(
        transition=np.asarray(np.kron(_trend_chain(), _volatility_chain()), np.float64),
        drift=strength * DRIFT * TRENDS[trend],
        deviation=VOLATILITIES[level],
        volume=_volume(TRENDS[trend], level),
    )


def _volume(trend: Floats, level: NDArray[np.int64]) -> Floats:
    """Mean log volume relative to the symbol's own."""
    by_volatility = VOLUME_BY_VOLATILITY * np.log(VOLATILITIES[level])
    return np.asarray(by_volatility + VOLUME_BY_TREND * LEANING[level] * trend)


def _trend_chain() -> Floats:
    """After a trend or a pause ends, either of the two others follows."""
    leave = 1 / np.array([TREND_BARS, PAUSE_BARS, TREND_BARS])[:, None]
    return np.where(np.eye(3, dtype=bool), 1 - leave, leave / 2)


def _volatility_chain() -> Floats:
    """From each level to its neighbours."""
    levels = len(VOLATILITIES)
    beside = np.eye(levels, k=1) + np.eye(levels, k=-1)
    leave = beside / beside.sum(1, keepdims=True) / VOLATILITY_BARS
    return np.asarray(leave + np.eye(levels) * (1 - 1 / VOLATILITY_BARS))


def _traits(settings: SyntheticData, number: int) -> _Traits:
    volatility, price, volume = random_stream(settings, number, 0).random_sample(3)
    return _Traits(0.008 * 2**volatility, 20 * 10**price, 3e5 * 100**volume)


def random_stream(settings: SyntheticData, number: int, stream: int) -> np.random.RandomState:
    # RandomState's stream never changes between numpy versions (NEP 19), so a saved run gets the same market
    return np.random.RandomState([settings.seed, number, stream])
