"""Bars in memory: one contiguous array for all series, and the offset of each series.

Legend: N bars of all series together, S series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

OPEN, HIGH, LOW, CLOSE, VOLUME = range(5)


@dataclass(frozen=True)
class Bars:
    """Split-adjusted bars. A symbol with a long gap in its history appears as several series.

    symbols: (S,) name of each series, in order; a symbol's series follow each other in time
    offsets: (S + 1,) int64; series s holds the rows offsets[s]:offsets[s + 1]
    time:    (N,) datetime64[s], strictly increasing within a series; midnight for daily bars
    ohlcv:   (N, 5) float64 open, high, low, close (all > 0), volume (>= 0); no NaN
    """

    symbols: tuple[str, ...]
    offsets: NDArray[np.int64]
    time: NDArray[np.datetime64]
    ohlcv: NDArray[np.float64]

    @classmethod
    def from_series(cls, series: Sequence[tuple[str, NDArray[np.datetime64], NDArray[np.float64]]]) -> Bars:
        """Joins (symbol, time (n,), ohlcv (n, 5)) triples into one array."""
        lengths = [len(time) for _, time, _ in series]
        return cls(
            symbols=tuple(symbol for symbol, _, _ in series),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            time=np.concatenate(
                [np.empty(0, "datetime64[s]"), *(time.astype("datetime64[s]") for _, time, _ in series)]
            ),
            ohlcv=np.concatenate([np.empty((0, 5)), *(ohlcv for _, _, ohlcv in series)]),
        )

    def __len__(self) -> int:
        return len(self.time)

    def rows(self, series: int) -> slice:
        """The rows of one series."""
        return slice(int(self.offsets[series]), int(self.offsets[series + 1]))

    def of_series(self, series: slice) -> Bars:
        """Some series that follow each other, as views of these arrays."""
        symbols = self.symbols[series]
        offsets = self.offsets[series.start : series.start + len(symbols) + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        return Bars(symbols, offsets - offsets[0], self.time[rows], self.ohlcv[rows])

    @property
    def series_of_row(self) -> NDArray[np.int64]:
        """(N,) the series that each bar belongs to."""
        return np.repeat(np.arange(len(self.symbols)), np.diff(self.offsets))

    def digest(self) -> str:
        """Hash of the content (symbols, times, values): equal bars have equal digests."""
        h = hashlib.blake2b(digest_size=16)
        h.update("\0".join(self.symbols).encode())
        for array in (self.offsets, self.time.astype(np.int64), self.ohlcv):
            h.update(np.ascontiguousarray(array).data)
        return h.hexdigest()


_SPLIT: Final = 1.2


def adjust_bars(ohlcv: NDArray[np.float64], adj_close: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales prices by adj_close / close and undoes splits in the volume; (n, 5) in and out, a new array.

    A jump of the factor by more than 20% from one bar to the next is a split (dividends move it less). Volume
    is converted into shares of the first bar: a 2:1 split halves all later volume, where vendors double all
    earlier volume. So a bar's volume does not change when a later split becomes known. Factors beyond float64
    give values that are not finite or not above 0.
    """
    adjusted = ohlcv.copy()
    with np.errstate(all="ignore"):
        factor = adj_close / ohlcv[:, CLOSE]
        jump = factor[:-1] / factor[1:]
        split = np.where(np.maximum(jump, 1 / jump) > _SPLIT, jump, 1.0)
        splits_so_far = np.concatenate([[1.0], np.cumprod(split)])
        adjusted[:, :VOLUME] *= factor[:, None]
        adjusted[:, VOLUME] *= splits_so_far
    return adjusted
