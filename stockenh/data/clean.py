"""From one symbol's rows to series that are fit for use: dropped, ordered, adjusted, checked and cut.

Legend: n rows of one symbol.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.adjust import adjust_bars
from stockenh.data.bars import CLOSE, VOLUME
from stockenh.data.findings import Finding
from stockenh.data.rows import Mask, Rows
from stockenh.data.rules import Reason, drop_rows, leave_out
from stockenh.data.series_rules import check_series

_DAY: Final = np.timedelta64(1, "D")
FEW: Final = 5  # repeated dates up to which nothing is concluded from their prices
_OTHER_SCALE: Final = 0.02

Times = NDArray[np.datetime64]
Stretch = tuple[str, Times, NDArray[np.float64]]


def clean_rows(
    rows: Rows, symbol: str, max_gap_days: int, min_bars: int
) -> tuple[list[Stretch], list[Finding]]:
    """Makes (symbol, time (n,), ohlcv (n, 5)) stretches of one symbol's rows, and says what was found.

    Nothing is filled: a gap of more than `max_gap_days` calendar days ends a stretch, and a stretch of fewer
    than `min_bars` bars is left out. No stretch, and an error finding, where the symbol is unusable.
    """
    rows, drops = drop_rows(rows, symbol)
    rows, more = _in_order(daily(rows), symbol)
    found = [*drops, *more]
    if any(finding.level == "error" for finding in found):
        return [], found
    if rows.adj_close is not None:
        rows = replace(rows, ohlcv=adjust_bars(rows.ohlcv, rows.adj_close))
    sound = np.column_stack([np.isfinite(rows.ohlcv), rows.ohlcv[:, :VOLUME] > 0])
    wrong: Mask = np.logical_not(np.logical_and.reduce(sound, axis=1))
    if wrong.any():
        message = "the adjusted close gives prices or volumes that are no numbers"
        fix = "fetch adjusted prices again, or set data.adjust=false"
        return [], [*found, rows.place(wrong).finding("error", "adj-close-overflow", symbol, message, fix)]
    found += check_series(rows, symbol)
    pieces, gaps = _stretches(rows, symbol, max_gap_days)
    long, short = _long_enough(rows, pieces, symbol, min_bars)
    return [(symbol, rows.time[piece], rows.ohlcv[piece]) for piece in long], [*found, *gaps, *short]


def daily(rows: Rows) -> Rows:
    """Puts daily bars at midnight; where most dates have several times, the bars are intraday and stay."""
    day = rows.time.astype("datetime64[D]")
    if (day == rows.time).all():
        return rows
    days, times = np.unique(np.unique(rows.time).astype("datetime64[D]"), return_counts=True)
    if 2 * int((times > 1).sum()) > len(days):
        return rows
    return replace(rows, time=day.astype("datetime64[s]"))


def other_scale(close: NDArray[np.float64], again: NDArray[np.float64]) -> bool:
    """Whether two closes (n,) of the same dates are not those of one symbol: over 2% apart for most dates."""
    with np.errstate(all="ignore"):
        apart = np.abs(np.log(close / again))
    return len(close) > FEW and 2 * int((apart > _OTHER_SCALE).sum()) > len(close)


def _in_order(rows: Rows, symbol: str) -> tuple[Rows, list[Finding]]:
    """Sorts by time and keeps the last of the rows that share one."""
    step = np.diff(rows.time).astype(np.int64)
    if (step > 0).all():
        return rows, []
    found = []
    if (step < 0).any() and (step > 0).any():
        place = rows.place(np.append(False, step < 0))
        message = "dates run neither forwards nor backwards; the rows were sorted"
        fix = "nothing to do, or sort the file by date"
        found.append(place.finding("warning", "unsorted", symbol, message, fix))
    rows = rows.take(np.argsort(rows.time, kind="stable"))
    repeated: Mask = np.append(rows.time[1:] == rows.time[:-1], False)
    here = np.flatnonzero(repeated)
    if other_scale(rows.ohlcv[here, CLOSE], rows.ohlcv[here + 1, CLOSE]):
        message = f"{len(here)} dates come again with quite other prices: several symbols in one"
        fix = "name the column that tells them apart: data.columns.symbol=NAME, or put each into its own file"
        return rows.take(here[:0]), [
            *found,
            rows.place(repeated).finding("error", "duplicate-date", symbol, message, fix),
        ]
    alive, drops = leave_out([(_repeat_reason(rows, here), repeated)], rows, symbol)
    return rows.take(alive), [*found, *drops]


def _repeat_reason(rows: Rows, here: NDArray[np.int64]) -> Reason:
    same = int((rows.ohlcv[here] == rows.ohlcv[here + 1]).all(axis=1).sum())
    how = "identical" if same == len(here) else "all different" if not same else f"{same} identical"
    return Reason(
        "duplicate-date",
        f"the date comes again, with values {how}; the last row was kept",
        "remove the repeats; a file of several symbols needs data.columns.symbol=NAME",
    )


def _stretches(rows: Rows, symbol: str, max_gap_days: int) -> tuple[list[slice], list[Finding]]:
    gap = np.append(False, np.diff(rows.time) > max_gap_days * _DAY)
    after = np.flatnonzero(gap)
    edges = [0, *after.tolist(), len(rows)]
    pieces = [slice(begin, end) for begin, end in pairwise(edges)]
    if not len(after):
        return pieces, []
    longest = int(np.diff(rows.time).max() / _DAY)
    message = f"gaps of more than {max_gap_days} days: {len(after)}, the longest of {longest}; cut there"
    fix = "fetch the missing dates, or raise data.max_gap_days; nothing is filled in"
    return pieces, [rows.place(gap).finding("warning", "gap", symbol, message, fix)]


def _long_enough(
    rows: Rows, pieces: list[slice], symbol: str, min_bars: int
) -> tuple[list[slice], list[Finding]]:
    long = [piece for piece in pieces if piece.stop - piece.start >= min_bars]
    if len(long) == len(pieces):
        return long, []
    fix = "fetch a longer history, or leave it out"
    left: Mask = np.ones(len(rows), bool)
    for piece in long:
        left[piece] = False
    place = rows.place(left)
    if not long:
        most = max(piece.stop - piece.start for piece in pieces)
        message = (
            f"the longest usable stretch has {most} of the {min_bars} bars that a window and its label need"
        )
        return [], [place.finding("error", "too-short", symbol, message, fix)]
    message = f"{place.rows} bars left out: they lie between gaps, in stretches shorter than {min_bars} bars"
    return long, [place.finding("drop", "short-stretch", symbol, message, fix)]
