"""A market whose next move has a known probability: the yardstick for how near to the limit a model comes.

Each symbol moves through trends (down, none, up) of its own; all share the volatility of the market, which
moves between four levels. Both are hidden Markov chains. Of what a bar shows,
- the gap from the close before to the open carries the whole drift, and less than a third of the variance;
- the way from open to close is noise; high and low are the extremes of a Brownian bridge between the two;
- the volume rises with volatility. It also leans with the trend in a calm market, against it in a wild one.
A bar's likelihood in each state is therefore a closed formula, the filter of the states is exact, and so is
the probability that the next h returns add up to more than 0 given a symbol's own bars.

Legend: T bars of a symbol, S symbols, N = S x T bars, K states, H horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, HIGH, LOW, OPEN, VOLUME, Bars
from stockenh.data.synthetic_filter import filtered, up_probability, walk
from stockenh.errors import ConfigError

Floats = NDArray[np.float64]

TRENDS = np.array([-1.0, 0.0, 1.0])
TREND_BARS, PAUSE_BARS = 25, 5  # mean length of a trend, and of the time without one
DRIFT = 0.64  # of a trend per bar, in the symbol's mean volatility, at strength 1

VOLATILITIES = np.array([0.7, 0.9, 1.15, 1.45])  # in the symbol's mean volatility
LEANING = np.array([1.0, 1.0, -1.0, -1.0])  # how volume leans at each of them: with the trend or against it
VOLATILITY_BARS = 25

OVERNIGHT = 0.3  # share of the variance between two closes that the gap has
VOLUME_BY_VOLATILITY = 0.7  # exponent
VOLUME_BY_TREND, VOLUME_NOISE = 0.45, 0.35  # in log volume

MAX_STRENGTH = 3.0


@dataclass(frozen=True)
class MarketSettings:
    """What a synthetic market depends on. Raises ConfigError naming the key of `data` that is wrong.

    strength: of the drift; 0 is pure noise, at 1 the best forecast is right about 80% of the time at 5 bars
    start:    the first business day, as 2012-01-02
    """

    symbols: int = 30
    bars: int = 2000
    seed: int = 0
    strength: float = 1.0
    start: str = "2012-01-02"

    def __post_init__(self) -> None:
        for name in ("symbols", "bars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"data.seed={self.seed} must be from 0 to 4294967295")
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise ConfigError(f"data.strength={self.strength} must be from 0 (noise) to {MAX_STRENGTH:g}")
        try:
            valid = len(self.start) == 10 and not np.isnat(np.datetime64(self.start))
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError(f"data.start={self.start} is not a date: write 2012-01-02")


@dataclass(frozen=True)
class _States:
    """The joint states of trend and volatility: their chain (K, K) and what a bar is like in each (K,)."""

    transition: Floats
    drift: Floats
    deviation: Floats
    volume: Floats


@dataclass(frozen=True)
class _Traits:
    """What tells one symbol from another; volatility and volume are those of a mean bar."""

    volatility: float
    price: float
    volume: float


def generate(settings: MarketSettings) -> Bars:
    """The bars of all symbols on the same business days.

    A symbol's bars depend on the seed and its number alone: more symbols or more bars leave what there is.
    Prices are rounded to float32, so that an exponential that another machine rounds otherwise in its last
    bit still gives the same bars.
    """
    days = np.busday_offset(settings.start, np.arange(settings.bars), roll="forward")
    level = walk(_volatility_chain(), _random(settings, 0, 0).random_sample(settings.bars))
    numbers = range(1, settings.symbols + 1)
    return Bars.from_series([(f"SYN{n:03}", days, _series(settings, n, level)) for n in numbers])


def best_probabilities(bars: Bars, settings: MarketSettings, horizons: Sequence[int]) -> Floats:
    """(N, H) probability that the close h bars on is higher, given the symbol's own bars up to now.

    No forecast from these bars beats it in the long run. It knows the laws of the market and each symbol's
    mean volatility and volume; the first bar, which has no close before it, counts for nothing.
    """
    states = _states(settings.strength)
    evidence = [
        _evidence(bars.ohlcv[bars.rows(series)], _traits(settings, series + 1), states)
        for series in range(len(bars.symbols))
    ]
    beliefs = filtered(np.stack(evidence, axis=1), states.transition)  # (T, S, K)
    up = up_probability(states.transition, states.drift, states.deviation, horizons)
    return np.asarray((beliefs.swapaxes(0, 1) @ up).reshape(len(bars), len(horizons)))


def _series(settings: MarketSettings, number: int, level: NDArray[np.int64]) -> Floats:
    """(T, 5) bars of one symbol in a market that goes through these levels (T,) of volatility."""
    traits = _traits(settings, number)
    normal = _random(settings, number, 1).standard_normal((settings.bars, 3))
    uniform = _random(settings, number, 2).random_sample((settings.bars, 3))
    trend = walk(_trend_chain(), uniform[:, 0])
    deviation = traits.volatility * VOLATILITIES[level]
    drift = settings.strength * DRIFT * traits.volatility * TRENDS[trend]
    gap = drift + np.sqrt(OVERNIGHT) * deviation * normal[:, 0]
    session = np.sqrt(1 - OVERNIGHT) * deviation * normal[:, 1]
    close = np.log(traits.price) + np.cumsum(gap + session)
    open_ = close - session
    # the maximum of a Brownian bridge, by inversion: P(above y) = exp(-2 (y - open) (y - close) / variance)
    spread = np.sqrt(session**2 - 2 * (1 - OVERNIGHT) * deviation**2 * np.log1p(-uniform[:, 1:].T))  # (2, T)
    high, low = (open_ + close + spread[0]) / 2, (open_ + close - spread[1]) / 2
    prices = np.exp(np.column_stack([open_, high, low, close])).astype(np.float32)
    mean_volume = np.log(traits.volume) + _volume(TRENDS[trend], level)
    volume = np.rint(np.exp(mean_volume + VOLUME_NOISE * normal[:, 2]))
    return np.column_stack([prices.astype(np.float64), volume])


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
    """Mean log volume beside the symbol's own."""
    by_volatility = VOLUME_BY_VOLATILITY * np.log(VOLATILITIES[level])
    return np.asarray(by_volatility + VOLUME_BY_TREND * LEANING[level] * trend)


def _trend_chain() -> Floats:
    """A trend or a pause that ends is followed by either of the two others."""
    leave = 1 / np.array([TREND_BARS, PAUSE_BARS, TREND_BARS])[:, None]
    return np.where(np.eye(3, dtype=bool), 1 - leave, leave / 2)


def _volatility_chain() -> Floats:
    """From each level to its neighbours."""
    levels = len(VOLATILITIES)
    beside = np.eye(levels, k=1) + np.eye(levels, k=-1)
    leave = beside / beside.sum(1, keepdims=True) / VOLATILITY_BARS
    return np.asarray(leave + np.eye(levels) * (1 - 1 / VOLATILITY_BARS))


def _traits(settings: MarketSettings, number: int) -> _Traits:
    volatility, price, volume = _random(settings, number, 0).random_sample(3)
    return _Traits(0.008 * 2**volatility, 20 * 10**price, 3e5 * 100**volume)


def _random(settings: MarketSettings, number: int, stream: int) -> np.random.RandomState:
    # RandomState's stream never changes between numpy versions (NEP 19): a saved run finds its market again
    return np.random.RandomState([settings.seed, number, stream])
