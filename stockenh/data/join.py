"""One symbol's rows from several files, put together: what two of them hold is taken from the first.

Legend: n rows of all the files, P files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE
from stockenh.data.clean import FEW, daily, other_scale
from stockenh.data.findings import Finding
from stockenh.data.rows import Mask, Rows
from stockenh.data.rules import NOISE

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
