"""From one symbol's rows to usable series: joined, filtered, sorted, adjusted, checked and cut at gaps.

Legend: n rows of one symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, adjust_bars
from stockenh.data.findings import Finding, Mask, Rows
from stockenh.data.readers.row_rules import NOISE, Reason, drop_rows, leave_out
from stockenh.data.readers.series_rules import FEW, check_series

_DAY: Final = np.timedelta64(1, "D")
_OTHER_SCALE: Final = 0.02

Times = NDArray[np.datetime64]
Stretch = tuple[str, Times, NDArray[np.float64]]


def clean_rows(
    rows: Rows, symbol: str, max_gap_days: int, min_bars: int
) -> tuple[list[Stretch], list[Finding]]:
    """(symbol, time (n,), ohlcv (n, 5)) stretches of one symbol's rows, and findings.

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
    wrong = np.asarray(~np.isfinite(rows.ohlcv).all(1) | (rows.prices <= 0).any(1))
    if wrong.any():
        message = "the adjusted close gives prices or volumes that are not numbers"
        fix = "fetch adjusted prices again, or set data.adjust=false"
        return [], [*found, rows.finding("error", "adj-close-overflow", wrong, symbol, message, fix)]
    found += check_series(rows, symbol)
    pieces, gaps = _stretches(rows, symbol, max_gap_days)
    long, short = _long_enough(rows, pieces, symbol, min_bars)
    return [(symbol, rows.time[piece], rows.ohlcv[piece]) for piece in long], [*found, *gaps, *short]


def daily(rows: Rows) -> Rows:
    """Moves daily bars to midnight; bars are intraday, and stay, where most dates have several times."""
    day = rows.time.astype("datetime64[D]")
    if (day == rows.time).all():
        return rows
    days, times = np.unique(np.unique(rows.time).astype("datetime64[D]"), return_counts=True)
    if 2 * int((times > 1).sum()) > len(days):
        return rows
    return replace(rows, time=day.astype("datetime64[s]"))


def other_scale(close: NDArray[np.float64], again: NDArray[np.float64]) -> bool:
    """Whether two closes (n,) of the same dates belong to different symbols: most are over 2% apart."""
    with np.errstate(all="ignore"):
        apart = np.abs(np.log(close / again))
    return len(close) > FEW and 2 * int((apart > _OTHER_SCALE).sum()) > len(close)


def _in_order(rows: Rows, symbol: str) -> tuple[Rows, list[Finding]]:
    """Sorts by time and keeps the last of the rows that share one."""
    step = np.diff(rows.time).astype(np.int64)
    if (step > 0).all():
        return rows, []
    found = []
    unsorted = _against_its_file(rows, step)
    if unsorted.any():
        message = "dates run neither forwards nor backwards; the rows were sorted"
        fix = "nothing to do, or sort the file by date"
        found.append(rows.finding("warning", "unsorted", unsorted, symbol, message, fix))
    rows = rows.take(np.argsort(rows.time, kind="stable"))
    repeated: Mask = np.append(rows.time[1:] == rows.time[:-1], False)
    here = np.flatnonzero(repeated)
    if other_scale(rows.ohlcv[here, CLOSE], rows.ohlcv[here + 1, CLOSE]):
        message = f"{len(here)} dates repeat with very different prices: several symbols in one"
        fix = "name the column that separates them: data.columns.symbol=NAME, or put each into its own file"
        error = rows.finding("error", "duplicate-date", repeated, symbol, message, fix)
        return rows.take(here[:0]), [*found, error]
    alive, drops = leave_out([(_repeat_reason(rows, here), repeated)], rows, symbol)
    return rows.take(alive), [*found, *drops]


def _against_its_file(rows: Rows, step: NDArray[np.int64]) -> Mask:
    """Rows (n,) that run backwards in a file whose others run forwards; files may follow in any order."""
    file = np.zeros(len(rows), np.int32) if rows.file_index is None else rows.file_index
    inside = file[1:] == file[:-1]
    back, forth = inside & (step < 0), inside & (step > 0)
    return np.append(False, back & np.isin(file[1:], file[1:][forth]))


def _repeat_reason(rows: Rows, here: NDArray[np.int64]) -> Reason:
    same = int((rows.ohlcv[here] == rows.ohlcv[here + 1]).all(axis=1).sum())
    how = "identical" if same == len(here) else "all different" if not same else f"{same} identical"
    return Reason(
        "duplicate-date",
        f"the date repeats, with values {how}; the last row was kept",
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
    return pieces, [rows.finding("warning", "gap", gap, symbol, message, fix)]


def _long_enough(
    rows: Rows, pieces: list[slice], symbol: str, min_bars: int
) -> tuple[list[slice], list[Finding]]:
    long = [piece for piece in pieces if piece.stop - piece.start >= min_bars]
    if len(long) == len(pieces):
        return long, []
    fix = "fetch a longer history, or leave it out"
    left = np.ones(len(rows), bool)
    for piece in long:
        left[piece] = False
    if not long:
        most = max(piece.stop - piece.start for piece in pieces)
        needed = f"the {min_bars} bars that a window and its label need"
        message = f"the longest usable stretch has {most} of {needed}"
        return [], [rows.finding("error", "too-short", left, symbol, message, fix)]
    message = f"{left.sum()} bars left out: they lie between gaps, in stretches shorter than {min_bars} bars"
    return long, [rows.finding("drop", "short-stretch", left, symbol, message, fix)]


def join_rows(parts: Sequence[Rows], symbol: str) -> tuple[Rows, list[Finding]]:
    """Joins the rows of one symbol, each part from one file, in the order of files and rows.

    Where files share dates the first one's rows stay. A file is left out with an error where most of its rows
    contradict another file's, where its prices are on another scale, or where it lacks the adjusted close
    that another file has.
    """
    if len(parts) == 1:
        return parts[0], []
    parts, found = _same_adjustment(parts, symbol)
    while True:
        rows = daily(_concatenate(parts))
        overlap = _overlap(rows)
        if not overlap.repeated.any():
            return rows, found
        refused = _refused(rows, overlap)
        if not refused:
            shared = np.unique(overlap.file[overlap.repeated]).tolist()
            found += [_shared_dates(rows, overlap, file, symbol) for file in shared]
            return rows.take(~overlap.repeated), found
        found += [_contradiction(rows, overlap, file, symbol) for file in refused]
        parts = [part for file, part in enumerate(parts) if file not in refused]


@dataclass(frozen=True)
class _Overlap:
    """Rows (n,) whose date another file has.

    file:     each row's file
    first:    the first row, in the order of the files, with the same time
    repeated: that row is in another file
    differs:  and it has other values
    """

    file: NDArray[np.int32]
    first: NDArray[np.int64]
    repeated: Mask
    differs: Mask


def _same_adjustment(parts: Sequence[Rows], symbol: str) -> tuple[list[Rows], list[Finding]]:
    """The parts with an adjusted close where any has one: the others' prices are on another scale."""
    adjusted = [part for part in parts if part.adj_close is not None]
    if not adjusted or len(adjusted) == len(parts):
        return list(parts), []
    message = f"no adjusted close, which {adjusted[0].files[0]} has for the same symbol"
    fix = "fetch this file with its adjusted close, or set data.adjust=false"
    others = [part for part in parts if part.adj_close is None]
    return adjusted, [
        Finding("error", "adj-close-absent", message, fix, part.files[0], symbol, rows=len(part))
        for part in others
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


def _overlap(rows: Rows) -> _Overlap:
    file = np.zeros(len(rows), np.int32) if rows.file_index is None else rows.file_index
    _, earliest, date = np.unique(rows.time, return_index=True, return_inverse=True)
    first = earliest[date]
    repeated = file != file[first]
    values = np.column_stack([rows.ohlcv, rows.adjusted])
    with np.errstate(invalid="ignore"):
        equal = np.isclose(values, values[first], rtol=NOISE, atol=0.0, equal_nan=True).all(axis=1)
    return _Overlap(file, first, repeated, repeated & ~equal)


def _refused(rows: Rows, overlap: _Overlap) -> list[int]:
    """The files that contradict an earlier one which is itself not refused, as indices into `rows.files`."""
    file, first = overlap.file, overlap.first
    size = np.bincount(file, minlength=len(rows.files))
    close = rows.ohlcv[:, CLOSE]
    wrong: list[int] = []
    for number in np.unique(file[overlap.differs]).tolist():
        own = np.flatnonzero(overlap.repeated & (file == number))
        own = own[~np.isin(file[first[own]], wrong)]
        if not len(own):
            continue
        conflicts = int(overlap.differs[own].sum())
        if 2 * conflicts > size[number] or (conflicts > FEW and other_scale(close[first[own]], close[own])):
            wrong.append(number)
    return wrong


def _contradiction(rows: Rows, overlap: _Overlap, file: int, symbol: str) -> Finding:
    own = overlap.differs & (overlap.file == file)
    other = rows.files[int(overlap.file[overlap.first[own]][0])]
    message = f"{other} has the symbol {symbol} too, for the same dates, with other values"
    fix = "remove one of the two files, or name their symbols differently"
    finding = rows.finding("error", "duplicate-symbol", own, symbol, message, fix)
    return replace(finding, rows=int((overlap.file == file).sum()))


def _shared_dates(rows: Rows, overlap: _Overlap, file: int, symbol: str) -> Finding:
    own = overlap.repeated & (overlap.file == file)
    total, other = int((overlap.file == file).sum()), rows.files[int(overlap.file[overlap.first[own]][0])]
    conflicts = int((overlap.differs & own).sum())
    how = f"{conflicts} of them with other values; {other}'s stay" if conflicts else "with the same values"
    message = f"{own.sum()} of {total} rows left out: {other} has these dates too, {how}"
    return rows.finding(
        "drop", "shared-date", own, symbol, message, "remove the repeats from one of the files"
    )
