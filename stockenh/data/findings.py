"""What a check has to say about a file: one finding per rule, file and symbol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["error", "drop", "warning"]


@dataclass(frozen=True)
class Finding:
    """One rule that fired.

    level:   "error" leaves the file or symbol out, "drop" leaves rows out, "warning" keeps everything
    rule:    short name such as "high-below-low"
    file:    file name, "" for the folder as a whole
    symbol:  "" where the file could not be read that far or holds several symbols
    date:    first affected date "YYYY-MM-DD", or ""
    rows:    number of affected rows
    message: what was seen, one line
    fix:     what to do about it, one line
    """

    level: Level
    rule: str
    file: str
    symbol: str
    date: str
    rows: int
    message: str
    fix: str


def quoted(text: str, width: int = 80) -> str:
    """The first `width` characters of a text, on one line and printable, in quotes."""
    line = "".join(c if c.isprintable() else " " for c in text[:width])
    return f"'{' '.join(line.split())}'"


Mask = NDArray[np.bool_]

_NEVER: Final = np.datetime64(np.iinfo(np.int64).max, "s")


@dataclass(frozen=True)
class Rows:
    """One symbol's rows, in any order.

    time:      (n,) datetime64[s]
    ohlcv:     (n, 5) float64, NaN where missing
    adj_close: (n,) float64 or None where the file has none
    files:     names of the files that the rows came from
    of_file:   (n,) the place in `files` of each row's file, or None where all came from the first
    """

    time: NDArray[np.datetime64]
    ohlcv: NDArray[np.float64]
    adj_close: NDArray[np.float64] | None = None
    files: tuple[str, ...] = ("",)
    of_file: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.time)

    def take(self, index: NDArray[np.int64] | Mask) -> Rows:
        """The rows that an index or mask picks."""
        return replace(
            self,
            time=self.time[index],
            ohlcv=self.ohlcv[index],
            adj_close=None if self.adj_close is None else self.adj_close[index],
            of_file=None if self.of_file is None else self.of_file[index],
        )

    def place(self, mask: Mask) -> Place:
        """Where the masked rows are: the earliest of them, and how many."""
        rows = np.flatnonzero(mask)
        if not len(rows):
            return Place(self.files[0], "", 0)
        time = self.time[rows]
        first = rows[int(np.argmin(np.where(np.isnat(time), _NEVER, time)))]
        date = "" if np.isnat(self.time[first]) else str(self.time[first])[:10]
        if self.of_file is None:
            return Place(self.files[0], date, len(rows))
        others = len(np.unique(self.of_file[rows])) - 1
        return Place(self.files[int(self.of_file[first])], date, len(rows), others)


@dataclass(frozen=True)
class Place:
    """Rows that a finding is about: file and date of the earliest, how many, and how many other files."""

    file: str
    date: str
    rows: int
    other_files: int = 0

    def finding(self, level: Level, rule: str, symbol: str, message: str, fix: str) -> Finding:
        """The finding about these rows; the message says where other files hold some of them."""
        if self.other_files:
            message += f"; some of them in {self.other_files} other file{'s' * (self.other_files > 1)}"
        return Finding(level, rule, self.file, symbol, self.date, self.rows, message, fix)
