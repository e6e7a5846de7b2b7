"""What the reading rules found, and the rows of one symbol that they look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, VOLUME
from stockenh.errors import printable_line

Level = Literal["error", "drop", "warning"]
Mask = NDArray[np.bool_]

_NEVER: Final = np.datetime64(np.iinfo(np.int64).max, "s")


@dataclass(frozen=True)
class Finding:
    """One rule that fired.

    level:   "error" leaves the file or symbol out, "drop" leaves rows out, "warning" keeps everything
    rule:    short name such as "high-below-low"
    message: what was seen, one line
    fix:     what to do about it, one line
    file:    file name, "" for the folder as a whole
    symbol:  "" where it is unknown or the file holds several
    date:    first affected date "YYYY-MM-DD", or ""
    rows:    number of affected rows

    Control characters of the data become escapes, because findings are printed on a terminal.
    """

    level: Level
    rule: str
    message: str
    fix: str
    file: str = ""
    symbol: str = ""
    date: str = ""
    rows: int = 0

    def __post_init__(self) -> None:
        for name in ("message", "fix", "file", "symbol"):
            object.__setattr__(self, name, printable_line(getattr(self, name)))


def quoted(text: str, width: int = 80) -> str:
    """The first `width` characters of a text, on one line and printable, in quotes."""
    line = "".join(c if c.isprintable() else " " for c in text[:width])
    return f"'{' '.join(line.split())}'"


def first_few(items: Sequence[str], most: int = 3) -> str:
    """The first `most` items, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


@dataclass(frozen=True)
class Rows:
    """One symbol's rows, in any order.

    time:       (n,) datetime64[s]
    ohlcv:      (n, 5) float64, NaN where missing
    adj_close:  (n,) float64 or None where the file has none
    files:      names of the files that the rows came from
    file_index: (n,) index into `files` of each row's file, or None where all came from the first
    """

    time: NDArray[np.datetime64]
    ohlcv: NDArray[np.float64]
    adj_close: NDArray[np.float64] | None = None
    files: tuple[str, ...] = ("",)
    file_index: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def prices(self) -> NDArray[np.float64]:
        """(n, 4) open, high, low, close."""
        return self.ohlcv[:, :VOLUME]

    @property
    def volume(self) -> NDArray[np.float64]:
        return self.ohlcv[:, VOLUME]

    @property
    def adjusted(self) -> NDArray[np.float64]:
        """(n,) the adjusted close, or the close where there is none."""
        return self.ohlcv[:, CLOSE] if self.adj_close is None else self.adj_close

    def take(self, index: NDArray[np.int64] | Mask) -> Rows:
        """The rows that an index or mask picks."""
        return replace(
            self,
            time=self.time[index],
            ohlcv=self.ohlcv[index],
            adj_close=None if self.adj_close is None else self.adj_close[index],
            file_index=None if self.file_index is None else self.file_index[index],
        )

    def finding(self, level: Level, rule: str, mask: Mask, symbol: str, message: str, fix: str) -> Finding:
        """A finding about the masked rows, with the file and date of the earliest and the number of rows."""
        rows = np.flatnonzero(mask)
        if not len(rows):
            return Finding(level, rule, message, fix, self.files[0], symbol)
        time = self.time[rows]
        first = rows[int(np.argmin(np.where(np.isnat(time), _NEVER, time)))]
        date = "" if np.isnat(self.time[first]) else str(self.time[first])[:10]
        file = self.files[0]
        if self.file_index is not None:
            file = self.files[int(self.file_index[first])]
            if others := len(np.unique(self.file_index[rows])) - 1:
                message += f"; some of them in {others} other file{'s' * (others > 1)}"
        return Finding(level, rule, message, fix, file, symbol, date, len(rows))
