"""Intervals of differences that are paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval by Student's t; the ends are None with fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval | None:
        """mean ± t(0.975, n - 1) s / sqrt(n), Student (1908); None without a value."""
        n = len(values)
        if not n:
            return None
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, None, None, 1)
        half = _quantile(n) * _deviation(values, mean) / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)


def seeds_to_tell(values: Sequence[float], bound: float) -> int | None:
    """How many values would put the bound outside the interval, if mean and spread stayed as they are.

    None with fewer than two values, where the mean lies at the bound, and beyond 1,000.
    """
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    distance, spread = abs(mean - bound), _deviation(values, mean)
    for n in range(2, MOST_SEEDS + 1):
        if distance > 0 and _quantile(n) * spread / math.sqrt(n) < distance:
            return n
    return None


def _deviation(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _quantile(n: int) -> float:
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(n - 1, 0.5 + LEVEL / 2))
