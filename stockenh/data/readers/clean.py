"""From one symbol's rows to series that are fit for use: dropped, ordered, adjusted, checked and cut.

Legend: n rows of one symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, VOLUME, adjust_bars
from stockenh.data.findings import Finding, Mask, Rows
from stockenh.data.readers.row_rules import NOISE, Reason, drop_rows, leave_out
from stockenh.data.readers.series_rules import check_series

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


Indices = NDArray[np.int64]


def join_rows(parts: Sequence[Rows], symbol: str) -> tuple[Rows, list[Finding]]:
    """Joins the rows of one symbol, each from one file; files come in order, rows as they stand in theirs.

    Where files share dates the first one's rows stay. A file most of whose rows contradict another's, or
    whose prices are on another scale, is left out with an error, as is one without the adjusted close that
    another has.
    """
    if len(parts) == 1:
        return parts[0], []
    parts, found = _alike(parts, symbol)
    while True:
        rows = daily(_concatenate(parts))
        first = _first_of_date(rows)
        repeated = _file_of(rows) != _file_of(rows)[first]
        if not repeated.any():
            return rows, found
        differs = repeated & _differs(rows, first)
        refused = _refused(rows, first, repeated, differs)
        if not refused:
            found += [
                _shared(rows, first, repeated, differs, p, symbol)
                for p in np.unique(_file_of(rows)[repeated]).tolist()
            ]
            return rows.take(~repeated), found
        found += [_contradicts(rows, first, differs, p, symbol) for p in refused]
        parts = [part for p, part in enumerate(parts) if p not in refused]


def _alike(parts: Sequence[Rows], symbol: str) -> tuple[list[Rows], list[Finding]]:
    """The parts with an adjusted close where any has one: the others' prices are on another scale."""
    adjusted = [part for part in parts if part.adj_close is not None]
    if not adjusted or len(adjusted) == len(parts):
        return list(parts), []
    message = f"no adjusted close, which {adjusted[0].files[0]} has for the same symbol"
    fix = "fetch this file with its adjusted close, or set data.adjust=false"
    others = [part for part in parts if part.adj_close is None]
    return adjusted, [
        Finding("error", "adj-close-absent", p.files[0], symbol, "", len(p), message, fix) for p in others
    ]


def _concatenate(parts: Sequence[Rows]) -> Rows:
    adj_close = [part.adj_close for part in parts if part.adj_close is not None]
    return Rows(
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.ohlcv for part in parts]),
        np.concatenate(adj_close) if adj_close else None,
        tuple(part.files[0] for part in parts),
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]),
    )


def _file_of(rows: Rows) -> NDArray[np.int32]:
    return np.zeros(len(rows), np.int32) if rows.of_file is None else rows.of_file


def _first_of_date(rows: Rows) -> Indices:
    """(n,) the first row, in the order of the files, that has each row's time."""
    order = np.argsort(rows.time, kind="stable")
    time = rows.time[order]
    begins = np.append(True, time[1:] != time[:-1])
    first = np.empty(len(rows), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def _values(rows: Rows) -> NDArray[np.float64]:
    return rows.ohlcv if rows.adj_close is None else np.column_stack([rows.ohlcv, rows.adj_close])


def _differs(rows: Rows, first: Indices) -> Mask:
    values = _values(rows)
    with np.errstate(invalid="ignore"):
        equal = np.isclose(values, values[first], rtol=NOISE, atol=0.0, equal_nan=True)
    differs: Mask = np.logical_not(np.logical_and.reduce(equal, axis=1))
    return differs


def _refused(rows: Rows, first: Indices, repeated: Mask, differs: Mask) -> list[int]:
    """The files (places in `rows.files`) that contradict one before them which is itself not refused."""
    file = _file_of(rows)
    size = np.bincount(file, minlength=len(rows.files))
    wrong: list[int] = []
    for p in np.unique(file[differs]).tolist():
        mine = np.flatnonzero(repeated & (file == p))
        mine = mine[~np.isin(file[first[mine]], wrong)]
        if not len(mine):
            continue
        conflicts = int(differs[mine].sum())
        close = rows.ohlcv[:, CLOSE]
        if 2 * conflicts > size[p] or (conflicts > FEW and other_scale(close[first[mine]], close[mine])):
            wrong.append(p)
    return wrong


def _contradicts(rows: Rows, first: Indices, differs: Mask, p: int, symbol: str) -> Finding:
    mine = differs & (_file_of(rows) == p)
    place = replace(rows.place(mine), rows=int((_file_of(rows) == p).sum()))
    other = rows.files[int(_file_of(rows)[first[mine]][0])]
    message = f"{other} has the symbol {symbol} too, for the same dates, with other values"
    fix = "remove one of the two files, or name their symbols differently"
    return place.finding("error", "duplicate-symbol", symbol, message, fix)


def _shared(rows: Rows, first: Indices, repeated: Mask, differs: Mask, p: int, symbol: str) -> Finding:
    file = _file_of(rows)
    mine = repeated & (file == p)
    place, total, other = rows.place(mine), int((file == p).sum()), rows.files[int(file[first[mine]][0])]
    conflicts = int((differs & mine).sum())
    how = f"{conflicts} of them with other values; {other}'s stay" if conflicts else "with the same values"
    message = f"{place.rows} of {total} rows left out: {other} has these dates too, {how}"
    return place.finding("drop", "shared-date", symbol, message, "remove the repeats from one of the files")
