"""Whether the best of many trials is more than luck: deflated Sharpe ratio, chance of backtest overfitting.

A Sharpe ratio here is the mean of daily returns over their standard deviation, not annualised.
Legend: D dates, N trials, S blocks of dates.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

Floats = NDArray[np.float64]

FEWEST_TRIALS = 2
MOST_BLOCKS = 16
FEWEST_BLOCKS, FEWEST_DATES = 4, 10  # FEWEST_DATES: of a block
_CHUNK = 512  # combinations at once


def best_by_chance(variance: float, trials: int) -> float:
    """The Sharpe ratio to expect of the best of so many independent trials without skill.

    variance: of the trials' Sharpe ratios; Bailey and Lopez de Prado (2014), equation 1.
    """
    low, high = ndtri(1 - 1 / trials), ndtri(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * float((1 - np.euler_gamma) * low + np.euler_gamma * high)


def deflated_sharpe(sharpe: float, chance: float, dates: int, skew: float, kurtosis: float) -> float | None:
    """The probability that the true Sharpe ratio is above `chance`; above 0.95 the trial is significant.

    skew, kurtosis: third and fourth standardised moment of the returns (0 and 3 of a normal distribution).
    Bailey and Lopez de Prado (2014), equation 2. None where these moments give no variance.
    """
    variance = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if not variance > 0:
        return None
    return float(ndtr((sharpe - chance) * math.sqrt(dates - 1) / math.sqrt(variance)))


def backtest_overfitting(returns: Floats) -> float | None:
    """The probability that the trial which is best on one half of the dates is no better than the median of
    all on the other half, by combinatorially symmetric cross-validation (Bailey, Borwein, Lopez de Prado and
    Zhu 2017).

    returns: (D, N), N at least 2. The dates make S equal blocks, and every choice of half of these is tried.
    None where there are not four blocks of ten dates.
    """
    blocks = min(MOST_BLOCKS, len(returns) // FEWEST_DATES // 2 * 2)
    if blocks < FEWEST_BLOCKS:
        return None
    size = len(returns) // blocks
    parts = returns[len(returns) - size * blocks :].reshape(blocks, size, -1)
    sums, squares = parts.sum(1), np.square(parts).sum(1)  # (S, N)
    halves = np.array([*combinations(range(blocks), blocks // 2)])
    count = size * blocks // 2
    overfitted = 0
    for chosen in np.array_split(halves, math.ceil(len(halves) / _CHUNK)):
        inside = np.zeros((len(chosen), blocks))
        np.put_along_axis(inside, chosen, 1.0, axis=1)
        best = _sharpe_of_sums(inside @ sums, inside @ squares, count).argmax(1)
        outside = _sharpe_of_sums((1 - inside) @ sums, (1 - inside) @ squares, count)
        rank = rankdata(outside, axis=1)[np.arange(len(best)), best]
        overfitted += int((rank <= (returns.shape[1] + 1) / 2).sum())  # a logit of 0 or less
    return overfitted / len(halves)


def overfitting_figures(returns: Floats, best: int) -> dict[str, Any]:
    """`trials dates sharpe chance deflated pbo` of trials (D, N), of which number `best` was chosen.

    deflated and pbo are None where they are not defined. Raises ValueError with fewer than two trials.
    """
    dates, trials = returns.shape
    if trials < FEWEST_TRIALS:
        raise ValueError(f"{trials} trials are fewer than {FEWEST_TRIALS}")
    sharpes = _sharpe_of_sums(returns.sum(0), np.square(returns).sum(0), dates)
    chance = best_by_chance(float(sharpes.var(ddof=1)), trials)
    own, deflated = returns[:, best], None
    if own.std() > 0:
        z = (own - own.mean()) / own.std()
        moments = float((z**3).mean()), float((z**4).mean())
        deflated = deflated_sharpe(float(sharpes[best]), chance, dates, *moments)
    return {
        "trials": trials,
        "dates": dates,
        "sharpe": float(sharpes[best]),
        "chance": chance,
        "deflated": deflated,
        "pbo": backtest_overfitting(returns),
    }


def _sharpe_of_sums(sums: Floats, squares: Floats, count: int) -> Floats:
    """Sharpe ratios from sums over `count` returns and over their squares; 0 where all are the same."""
    mean = sums / count
    variance = (squares - sums * mean) / (count - 1)
    flat = variance <= 1e-14 * squares / count
    return np.where(flat, 0.0, mean / np.sqrt(np.where(flat, 1.0, variance)))
