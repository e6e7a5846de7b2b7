"""What a measurement says: a median with its spread, and what the project aims at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aim:
    """A limit that a figure is to keep, and what would be better still."""

    limit: float
    at_most: bool = False
    hoped: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether the value keeps the limit."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        said = f"{'at most' if self.at_most else 'at least'} {self.limit:g}"
        return said if self.hoped is None else f"{said}, hoped {self.hoped:g}"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    value: the median of `rounds`, None where it was not measured (`note` says why); low, high: the quartiles
    """

    part: str
    name: str
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    aim: Aim | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none, or nothing was measured."""
        return None if self.aim is None or self.value is None else self.aim.is_met(self.value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for bench.json."""
        aim = None if self.aim is None else str(self.aim)
        return {**asdict(self), "aim": aim, "met": self.met}


def median(
    part: str,
    name: str,
    unit: str,
    values: Sequence[float] | Floats,
    aim: Aim | None = None,
    note: str = "",
) -> Figure:
    """The median of several rounds, its quartiles beside it."""
    low, middle, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)).tolist()
    return Figure(part, name, unit, middle, low, high, len(values), aim, note)


def skipped(part: str, name: str, why: str, aim: Aim | None = None) -> Figure:
    """A figure that this machine or this config can't give."""
    return Figure(part, name, rounds=0, aim=aim, note=f"not measured: {why}")
