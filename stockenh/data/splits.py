"""Which window belongs to train, validation or test: by date, purged, with an embargo.

A part is a range of dates for all symbols. A window is dropped where its label (the largest horizon, counted
in the symbol's own bars) or the embargo reaches into the next part, so that no price that decides a label is
on both sides of a cut (Lopez de Prado 2018, chapter 7).

Legend: n windows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stockenh.data import CountOrZero, Share
from stockenh.errors import ConfigError

DROPPED, TRAIN, VAL, TEST = -1, 0, 1, 2
PARTS = {"train": TRAIN, "val": VAL, "test": TEST}

Times = NDArray[np.datetime64]
Reach = Callable[[int], Times]


class Split(ABC):
    """A rule that assigns windows to parts, which follow each other in time.

    embargo: bars left out before a cut, in addition to the purge
    """

    parts: ClassVar[tuple[str, ...]] = tuple(PARTS)
    embargo: int

    @abstractmethod
    def cuts(self, dates: Times) -> tuple[Times, Times]:
        """From the sorted dates: where each part begins (k,) and where it ends, exclusive (k,)."""

    def assign(self, asof: Times, reach: Reach) -> NDArray[np.int8]:
        """The part of each window: TRAIN, VAL, TEST (of those that this split has) or DROPPED.

        asof: (n,) the window's last bar; reach(k): (n,) the time of the bar k bars after the last label's.
        Raises ConfigError where a part would be empty, naming the keys.
        """
        dates = np.unique(asof)
        if len(dates) < len(self.parts):
            raise ConfigError(
                f"split: {len(dates)} dates with labelled windows don't make {len(self.parts)} part(s); "
                f"add bars, or lower data.lookback or data.horizons"
            )
        begins, ends = self.cuts(dates)
        reached = reach(self.embargo)
        parts = np.full(len(asof), DROPPED, np.int8)
        for part in range(len(begins)):
            inside = (asof >= begins[part]) & (asof < ends[part])
            if part + 1 < len(begins):
                inside &= reached < begins[part + 1]
            parts[inside] = part
        for name in self.parts:
            if not (parts == PARTS[name]).any():
                raise ConfigError(self._no_windows(name, len(dates)))
        return parts

    def _no_windows(self, part: str, dates: int) -> str:
        settings = " ".join(f"split.{k}={v}" for k, v in vars(self).items())
        return (
            f"{settings} leave no {part} windows: there are {dates} dates with labelled windows, and the "
            f"largest of data.horizons is purged before each cut; add bars or move the cuts"
        )


@dataclass(frozen=True)
class DateSplit(Split):
    """The last `test` share of the dates, before it `val`, before that train."""

    val: Share = 0.15
    test: Share = 0.15
    embargo: CountOrZero = 0

    def __post_init__(self) -> None:
        if self.val + self.test >= 1:
            raise ConfigError(f"split.val={self.val} and split.test={self.test} leave nothing to train on")

    def cuts(self, dates: Times) -> tuple[Times, Times]:
        n = len(dates)
        test = round(n * self.test)
        val = round(n * self.val)
        return _bounds(dates, 0, n - test - val, n - test, n)


@dataclass(frozen=True)
class WalkForward(Split):
    """Fold k of an expanding walk-forward: `folds` equal test blocks after a first block of the same size.

    Everything before fold k's test block is train, except its last `val` share, which is validation.
    """

    folds: Annotated[int, Field(ge=1, le=1000)] = 5
    fold: int = 0
    val: Share = 0.15
    embargo: CountOrZero = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fold < self.folds:
            raise ConfigError(f"split.fold={self.fold} must be from 0 to split.folds - 1 = {self.folds - 1}")

    def cuts(self, dates: Times) -> tuple[Times, Times]:
        n = len(dates)
        block = n // (self.folds + 1)
        end = n - (self.folds - 1 - self.fold) * block
        test = end - block
        return _bounds(dates, 0, test - round(test * self.val), test, end)


@dataclass(frozen=True)
class TrainOnly(Split):
    """Every labelled window trains; nothing is left for validation or test."""

    parts: ClassVar[tuple[str, ...]] = ("train",)
    embargo = 0

    def cuts(self, dates: Times) -> tuple[Times, Times]:
        return _bounds(dates, 0, len(dates))


def every_date(asof: Times, stride: int) -> NDArray[np.int64]:
    """The windows (k,) that end on every stride-th calendar date among these, from the first on.

    asof: (n,) the windows' last bars. All windows of a date stay or go together.
    """
    _, number = np.unique(asof.astype("datetime64[D]"), return_inverse=True)
    return np.flatnonzero(number % stride == 0)


def _bounds(dates: Times, *cuts: int) -> tuple[Times, Times]:
    edges = np.append(dates, dates[-1] + np.timedelta64(1, "s"))[list(cuts)]
    return edges[:-1], edges[1:]
