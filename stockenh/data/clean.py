"""From one symbol's rows to series that are fit for use: dropped, ordered, adjusted, checked and cut.

Legend: n rows of one symbol.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.adjust import adjust_bars
from stockenh.data.bars import VOLUME
from stockenh.data.findings import Finding, first_date
from stockenh.data.rules import Mask, Reason, Rows, drop_rows, leave_out
from stockenh.data.series_rules import Series, check_series

_DAY: Final = np.timedelta64(1, "D")

Times = NDArray[np.datetime64]
Stretch = tuple[str, Times, NDArray[np.float64]]


def clean_rows(
    rows: Rows, file: str, symbol: str, max_gap_days: int, min_bars: int
) -> tuple[list[Stretch], list[Finding]]:
    """Makes (symbol, time (n,), ohlcv (n, 5)) stretches of one symbol's rows, and says what was found.

    Nothing is filled: a gap of more than `max_gap_days` calendar days ends a stretch, and a stretch of fewer
    than `min_bars` bars is left out. No stretch, and an error finding, where the symbol is unusable.
    """
    rows, drops = drop_rows(rows, file, symbol)
    rows, more = _in_order(_daily(rows), file, symbol)
    found = [*drops, *more]
    if any(finding.level == "error" for finding in found):
        return [], found
    ohlcv = rows.ohlcv if rows.adj_close is None else adjust_bars(rows.ohlcv, rows.adj_close)
    if not (np.isfinite(ohlcv).all() and (ohlcv[:, :VOLUME] > 0).all()):
        message = "the adjusted close gives prices or volumes that are no numbers"
        fix = "fetch adjusted prices again, or set data.adjust=false"
        return [], [*found, Finding("error", "adj-close-overflow", file, symbol, "", len(rows), message, fix)]
    found += check_series(Series(rows.time, ohlcv, rows.adj_close is not None), file, symbol)
    pieces, gaps = _stretches(rows.time, file, symbol, max_gap_days)
    long, short = _long_enough(rows.time, pieces, file, symbol, min_bars)
    return [(symbol, rows.time[piece], ohlcv[piece]) for piece in long], [*found, *gaps, *short]


def _daily(rows: Rows) -> Rows:
    """Puts daily bars at midnight; where most dates have several times, the bars are intraday and stay."""
    day = rows.time.astype("datetime64[D]")
    if (day == rows.time).all():
        return rows
    days, times = np.unique(np.unique(rows.time).astype("datetime64[D]"), return_counts=True)
    if 2 * int((times > 1).sum()) > len(days):
        return rows
    return Rows(day.astype("datetime64[s]"), rows.ohlcv, rows.adj_close)


def _in_order(rows: Rows, file: str, symbol: str) -> tuple[Rows, list[Finding]]:
    """Sorts by time and keeps the last of the rows that share one."""
    step = np.diff(rows.time).astype(np.int64)
    if (step > 0).all():
        return rows, []
    found = []
    if (step < 0).any() and (step > 0).any():
        mask = np.append(False, step < 0)
        message = "dates run neither forwards nor backwards; the rows were sorted"
        fix = "nothing to do, or sort the file by date"
        count, date = int(mask.sum()), first_date(rows.time, mask)
        found.append(Finding("warning", "unsorted", file, symbol, date, count, message, fix))
    rows = rows.take(np.argsort(rows.time, kind="stable"))
    repeated: Mask = np.append(rows.time[1:] == rows.time[:-1], False)
    alive, drops = leave_out([(_repeat_reason(rows, repeated), repeated)], rows.time, file, symbol)
    return rows.take(alive), [*found, *drops]


def _repeat_reason(rows: Rows, repeated: Mask) -> Reason:
    here = np.flatnonzero(repeated)
    same = int((rows.ohlcv[here] == rows.ohlcv[here + 1]).all(axis=1).sum())
    how = "identical" if same == len(here) else "all different" if not same else f"{same} identical"
    return Reason(
        "duplicate-date",
        f"the date comes again, with values {how}; the last row was kept",
        "remove the repeats; a file of several symbols needs data.columns.symbol=NAME",
    )


def _stretches(time: Times, file: str, symbol: str, max_gap_days: int) -> tuple[list[slice], list[Finding]]:
    gap = np.append(False, np.diff(time) > max_gap_days * _DAY)
    after = np.flatnonzero(gap)
    edges = [0, *after.tolist(), len(time)]
    pieces = [slice(begin, end) for begin, end in pairwise(edges)]
    if not len(after):
        return pieces, []
    longest = int(np.diff(time).max() / _DAY)
    message = f"gaps of more than {max_gap_days} days: {len(after)}, the longest of {longest}; cut there"
    fix = "fetch the missing dates, or raise data.max_gap_days; nothing is filled in"
    date = first_date(time, gap)
    return pieces, [Finding("warning", "gap", file, symbol, date, len(after), message, fix)]


def _long_enough(
    time: Times, pieces: list[slice], file: str, symbol: str, min_bars: int
) -> tuple[list[slice], list[Finding]]:
    long = [piece for piece in pieces if piece.stop - piece.start >= min_bars]
    if len(long) == len(pieces):
        return long, []
    fix = "fetch a longer history, or leave it out"
    if not long:
        most = max(piece.stop - piece.start for piece in pieces)
        message = (
            f"the longest usable stretch has {most} of the {min_bars} bars that a window and its label need"
        )
        date = str(time[0])[:10] if len(time) else ""
        return [], [Finding("error", "too-short", file, symbol, date, len(time), message, fix)]
    short = [piece for piece in pieces if piece not in long]
    rows = sum(piece.stop - piece.start for piece in short)
    message = f"{rows} bars left out: they lie between gaps, in stretches shorter than {min_bars} bars"
    date = str(time[short[0].start])[:10]
    return long, [Finding("drop", "short-stretch", file, symbol, date, rows, message, fix)]
