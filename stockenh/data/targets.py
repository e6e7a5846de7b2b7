"""What is learned and judged: the simple return over the next bars, or a target made from it.

A target is made after the split. A relative one compares a return with those of the same day in the same
part, so no label of one part depends on another part. A day is a calendar date.

Legend: n windows, k of them, H horizons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from stockenh.data import Count
from stockenh.data.sources import DataSettings
from stockenh.data.windows import Windows, trailing_volatility
from stockenh.errors import ConfigError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class Target(ABC):
    """Settings and rule of a target.

    name: how tables and files call it; up: what the probability of up is of; is_return: whether its unit is
    that of a return
    """

    name: ClassVar[str]
    up: ClassVar[str] = "a rise"
    is_return: ClassVar[bool] = False

    def check(self, data: DataSettings) -> None:
        """Raises ConfigError where these data can't have such a target."""
        return None

    @abstractmethod
    def values(
        self, returns: Floats, windows: Windows, rows: Rows, horizons: Sequence[int]
    ) -> tuple[Floats, Floats]:
        """y_ret and y_dir (k, H) of simple returns (k, H) of the windows `rows` (k,), all of one part.

        NaN where a window has none. horizons: H bars that the returns are over.
        """

    def apply(self, windows: Windows, parts: Mapping[str, Rows]) -> tuple[Windows, dict[str, Rows]]:
        """The windows with this target as their label, and of each part the rows that have one.

        Windows outside of the parts have no label. Raises ConfigError where a part has none left.
        """
        y_ret, y_dir = np.full((2, *windows.returns.shape), np.nan, np.float32)
        for rows in parts.values():
            returns = windows.returns[rows].astype(np.float64)
            y_ret[rows], y_dir[rows] = self.values(returns, windows, rows, windows.horizons)
        made = replace(windows, y_ret=y_ret, y_dir=y_dir, raw_ret=windows.returns, best_prob=None)
        kept = {part: rows[np.isfinite(y_ret[rows]).any(1)] for part, rows in parts.items()}
        if empty := [part for part, rows in kept.items() if not len(rows)]:
            raise ConfigError(self._no_labels(empty[0], len(np.unique(windows.symbol))))
        return made, kept

    def _no_labels(self, part: str, symbols: int) -> str:
        settings = " ".join(f"target.{key}={value}" for key, value in vars(self).items())
        return f"target={self.name} {settings}: no window of the {part} part has a label"


@dataclass(frozen=True)
class Absolute(Target):
    """The simple return itself; up is above 0."""

    name = "absolute"
    is_return = True

    def values(
        self, returns: Floats, windows: Windows, rows: Rows, horizons: Sequence[int]
    ) -> tuple[Floats, Floats]:
        return returns, returns

    def apply(self, windows: Windows, parts: Mapping[str, Rows]) -> tuple[Windows, dict[str, Rows]]:
        return windows, dict(parts)


@dataclass(frozen=True)
class Relative(Target):
    """The base of targets within a day; up is above the day's median, exactly at it there is no direction.

    min_symbols: a day with fewer symbols that have a return has no label
    """

    up = "a return above the day's median"
    min_symbols: Annotated[int, Field(ge=2, le=10**9)] = 5

    def values(
        self, returns: Floats, windows: Windows, rows: Rows, horizons: Sequence[int]
    ) -> tuple[Floats, Floats]:
        day, symbol = windows.asof[rows].astype("datetime64[D]"), windows.symbol[rows]
        columns = [self._of_days(column, day, symbol) for column in returns.T]
        y_ret, y_dir = (np.stack(each, 1) for each in zip(*columns, strict=True))
        return y_ret, y_dir

    def _of_days(
        self, returns: Floats, day: NDArray[np.datetime64], symbol: NDArray[np.int32]
    ) -> tuple[Floats, Floats]:
        """Target and direction (k,) of one horizon."""
        known = np.isfinite(returns)
        frame = pl.DataFrame({"day": day[known], "symbol": symbol[known], "ret": returns[known]})
        ret = pl.col("ret")
        symbols = pl.col("symbol").n_unique().over("day")
        found = frame.select(
            pl.when(symbols >= self.min_symbols).then(expression.over("day"))
            for expression in (self._expression(ret).alias("target"), (ret - ret.median()).alias("above"))
        )
        y = np.full((2, len(returns)), np.nan)
        y[:, known] = found.fill_null(np.nan).to_numpy().T
        return self._finish(y[0]), y[1]

    def _no_labels(self, part: str, symbols: int) -> str:
        return (
            f"target={self.name}: no day of the {part} part has target.min_symbols={self.min_symbols} "
            f"symbols with a return; the data have {symbols} symbols"
        )

    @abstractmethod
    def _expression(self, ret: pl.Expr) -> pl.Expr:
        """The target within a day."""

    def _finish(self, values: Floats) -> Floats:
        """What is left to do to the values of all days (k,)."""
        return values


@dataclass(frozen=True)
class MarketRelative(Relative):
    """The return less the mean over the day's symbols."""

    name = "market_relative"
    is_return = True

    def _expression(self, ret: pl.Expr) -> pl.Expr:
        return ret - ret.mean()


@dataclass(frozen=True)
class Rank(Relative):
    """The normal score of the day's rank, ndtri((rank - 0.5) / n); equal returns share their mean rank."""

    name = "rank"

    def _expression(self, ret: pl.Expr) -> pl.Expr:
        return (ret.rank() - 0.5) / pl.len()

    def _finish(self, values: Floats) -> Floats:
        from scipy.special import ndtri  # slow to import, and other targets do without

        return np.asarray(ndtri(values), np.float64)


@dataclass(frozen=True)
class VolatilityScaled(Target):
    """The return over trailing volatility times the root of the horizon; up is above 0.

    bars: returns up to the window's last bar whose standard deviation is the volatility
    floor: a window with a lower volatility has no label
    """

    name = "volatility_scaled"
    bars: Annotated[Count, Field(ge=2)] = 20
    floor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4

    def check(self, data: DataSettings) -> None:
        if not data.brings_bars:
            raise ConfigError(
                "target=volatility_scaled needs raw bars, and data=windows has none: take target=absolute, "
                "market_relative or rank"
            )
        if self.bars >= (lookback := getattr(data, "lookback", np.inf)):
            raise ConfigError(
                f"target.bars={self.bars} must be below data.lookback={lookback}: so many returns take one "
                f"bar more"
            )

    def values(
        self, returns: Floats, windows: Windows, rows: Rows, horizons: Sequence[int]
    ) -> tuple[Floats, Floats]:
        volatility = trailing_volatility(windows, rows, self.bars)
        unit = np.where(volatility >= self.floor, volatility, np.nan)[:, None] * np.sqrt(horizons)
        return returns / unit, returns / unit
