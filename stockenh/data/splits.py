"""Which window belongs to train, validation or test: by date, purged, with an embargo.

A part has the same dates for all symbols. A window is dropped where its label (the largest horizon, counted
in the symbol's own bars) or the embargo meets a label of a part that is held out from its own, so that no
price that decides a label is on both sides of a cut (Lopez de Prado 2018, chapter 7). Validation and test are
held out from train, test from validation.

Legend: n windows, D dates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, islice, pairwise
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stockenh.data import CountOrZero, Share
from stockenh.errors import ConfigError, counted

DROPPED, TRAIN, VAL, TEST = -1, 0, 1, 2
PARTS = {"train": TRAIN, "val": VAL, "test": TEST}

Times = NDArray[np.datetime64]
Reach = Callable[[int], Times]


class Split(ABC):
    """A rule that assigns windows to parts.

    in_order: whether train, validation and test follow each other in time
    embargo: bars left out beside a cut, in addition to the purge
    """

    parts: ClassVar[tuple[str, ...]] = tuple(PARTS)
    in_order: ClassVar[bool] = True
    embargo: int

    @abstractmethod
    def part_of(self, dates: Times) -> NDArray[np.int8]:
        """(D,) the part of each of the sorted dates: TRAIN, VAL, TEST or DROPPED."""

    def assign(self, asof: Times, reach: Reach) -> NDArray[np.int8]:
        """The part of each window: TRAIN, VAL, TEST (of those that this split has) or DROPPED.

        asof: (n,) the window's last bar; reach(k): (n,) the time of the bar k bars after the last label's.
        Raises ConfigError where a part would be empty, naming the keys.
        """
        dates, date = np.unique(asof, return_inverse=True)
        if len(dates) < len(self.parts):
            raise ConfigError(
                f"split: {counted(len(dates), 'date')} with labelled windows don't make "
                f"{counted(len(self.parts), 'part')}; add bars, or lower data.lookback or data.horizons"
            )
        of_date, reached = self.part_of(dates), reach(self.embargo)
        parts = of_date[date]
        for part in (TRAIN, VAL):
            held_out = of_date > part
            own = np.flatnonzero(parts == part)
            last = _latest(reached, date, held_out[date], len(dates))  # of the labels held out, so far
            begins = np.append(dates[held_out], np.datetime64("9999-01-01"))
            after = begins[np.searchsorted(dates[held_out], asof[own], side="right")]
            parts[own[(reached[own] >= after) | (last[date[own]] >= asof[own])]] = DROPPED
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

    def part_of(self, dates: Times) -> NDArray[np.int8]:
        n = len(dates)
        test = round(n * self.test)
        val = round(n * self.val)
        return _in_order(n, 0, n - test - val, n - test, n)


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

    def part_of(self, dates: Times) -> NDArray[np.int8]:
        n = len(dates)
        block = n // (self.folds + 1)
        end = n - (self.folds - 1 - self.fold) * block
        test = end - block
        return _in_order(n, 0, test - round(test * self.val), test, end)


@dataclass(frozen=True)
class CombinatorialPurged(Split):
    """One combination of a combinatorial purged cross-validation (Lopez de Prado 2018, chapter 12).

    The dates make `groups` blocks of equal size. `test_groups` of them are the test part, all others train,
    except the last `val` share of these, which is validation. Purge and embargo lie on both sides of every
    test block. The combinations are in lexicographic order: with 6 and 2, number 0 tests the groups 0 and 1,
    number 14 the groups 4 and 5.
    """

    in_order: ClassVar[bool] = False
    groups: Annotated[int, Field(ge=2, le=20)] = 6
    test_groups: Annotated[int, Field(ge=1, le=19)] = 2
    combination: Annotated[int, Field(ge=0)] = 0
    val: Share = 0.15
    embargo: CountOrZero = 0

    def __post_init__(self) -> None:
        if self.test_groups >= self.groups:
            raise ConfigError(
                f"split.test_groups={self.test_groups} must be below split.groups={self.groups}"
            )
        if self.combination >= self.combinations:
            raise ConfigError(
                f"split.combination={self.combination} must be from 0 to {self.combinations - 1}, the last "
                f"with split.groups={self.groups} and split.test_groups={self.test_groups}"
            )

    @property
    def combinations(self) -> int:
        """The number of combinations, of which each tests other groups."""
        return math.comb(self.groups, self.test_groups)

    @property
    def paths(self) -> int:
        """The number of combinations that test a group, and so of paths through all dates."""
        return math.comb(self.groups - 1, self.test_groups - 1)

    def tested(self) -> tuple[int, ...]:
        """The groups that this combination tests."""
        of_all = combinations(range(self.groups), self.test_groups)
        return next(islice(of_all, self.combination, None))

    def group_of(self, dates: int) -> NDArray[np.int64]:
        """(D,) the group of each date."""
        return np.arange(dates) * self.groups // max(dates, 1)

    def part_of(self, dates: Times) -> NDArray[np.int8]:
        if len(dates) < self.groups:
            raise ConfigError(
                f"split.groups={self.groups} is more than the {len(dates)} dates with labelled windows: add "
                f"bars, or take fewer groups"
            )
        parts = np.where(np.isin(self.group_of(len(dates)), self.tested()), TEST, TRAIN).astype(np.int8)
        rest = np.flatnonzero(parts == TRAIN)
        parts[rest[len(rest) - round(len(rest) * self.val) :]] = VAL
        return parts


@dataclass(frozen=True)
class TrainOnly(Split):
    """Every labelled window trains; nothing is left for validation or test."""

    parts: ClassVar[tuple[str, ...]] = ("train",)
    embargo = 0

    def part_of(self, dates: Times) -> NDArray[np.int8]:
        return _in_order(len(dates), 0, len(dates))


def every_date(asof: Times, stride: int) -> NDArray[np.int64]:
    """The windows (k,) that end on every stride-th calendar date among these, from the first on.

    asof: (n,) the windows' last bars. All windows of a date stay or go together.
    """
    _, number = np.unique(asof.astype("datetime64[D]"), return_inverse=True)
    return np.flatnonzero(number % stride == 0)


def _in_order(count: int, *cuts: int) -> NDArray[np.int8]:
    """(D,) parts that follow each other, each from one cut to the next."""
    parts = np.full(count, DROPPED, np.int8)
    for part, (begin, end) in enumerate(pairwise(cuts)):
        parts[begin:end] = part
    return parts


def _latest(reached: Times, date: NDArray[np.int64], counted: NDArray[np.bool_], dates: int) -> Times:
    """(D,) the latest time that a counted window of this date or an earlier one reaches."""
    latest = np.full(dates, np.datetime64("0001-01-01"), "datetime64[s]")
    np.maximum.at(latest, date[counted], reached[counted])
    return np.maximum.accumulate(latest)
