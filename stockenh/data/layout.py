"""Which of a table's columns are used, and what there is to say about the choice.

Legend: N rows of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data.clean import FEW
from stockenh.data.columns import REQUIRED, Columns, plain
from stockenh.data.findings import Finding, Level, quoted
from stockenh.data.numbers import says_nothing
from stockenh.data.series_rules import SPLIT_MOVE
from stockenh.data.table import Table

Index = Mapping[str, int]

_PRICES: Final = ("open", "high", "low", "close")


def column_findings(file: str, table: Table, columns: Columns) -> tuple[Finding, ...]:
    """What is wrong with the names of a file's columns."""
    found = []
    names = ", ".join(name or "''" for name in table.names)
    names = names if len(names) <= 200 else names[:200] + " ..."
    for absent in columns.absent:
        message = f"no column is called {absent!r}, which data.columns names; the file has {names}"
        found.append(_finding("error", "mapped-column-missing", file, message, "correct data.columns"))
    if columns.missing and not columns.absent:
        fix = "name it: " + " ".join(f"data.columns.{name}=NAME" for name in columns.missing)
        if columns.missing == REQUIRED:
            fix = "begin the file with a line of names such as Date,Open,High,Low,Close,Volume, or remove it"
        message = f"no column for {', '.join(columns.missing)}; the file has {names}"
        found.append(_finding("error", "column-missing", file, message, fix))
    elif twice := _twice(table.names, columns.index):
        message = f"several columns are called {twice[0]!r}, {twice[1]!r}, ...: symbols side by side"
        fix = "export one symbol per file, or with a line of tickers below the line of names"
        found.append(_finding("error", "columns-repeated", file, message, fix))
    elif columns.close_among:
        first, *others = columns.close_among
        message = f"the close could be {', '.join(map(repr, columns.close_among))}; {first!r} was taken"
        fix = f"if that is wrong: data.columns.close={others[0]!r}"
        found.append(_finding("warning", "several-closes", file, message, fix))
    return tuple(found)


def with_volume(file: str, table: Table, index: Index) -> tuple[Index, tuple[Finding, ...]]:
    """The index without a volume column that never says anything, and a warning where there is no volume."""
    what = "no volume column"
    if "volume" in index:
        if not says_nothing(table.column(index["volume"])):
            return index, ()
        what = "the volume column is empty"
    fix = "name it: data.columns.volume=NAME; for an index there is nothing to do"
    without = {name: at for name, at in index.items() if name != "volume"}
    return without, (_finding("warning", "no-volume", file, f"{what}; volume is taken as 0", fix),)


def equity_only(file: str, table: Table, index: Index) -> tuple[Table, tuple[Finding, ...]]:
    """Keeps the rows of the series EQ, where an Indian export has any."""
    if "series" not in index:
        return table, ()
    equity = table.column(index["series"]).cast(pl.String).str.strip_chars() == "EQ"
    equity = equity.fill_null(False)
    others = int((~equity).sum())
    if not others or others == len(equity):
        return table, ()
    message = f"{others} of {len(equity)} rows left out: not of the equity series EQ"
    finding = Finding("drop", "other-series", file, "", "", others, message, "nothing to do")
    return replace(table, frame=table.frame.filter(equity)), (finding,)


def glued_symbols(
    file: str, table: Table, index: Index, time: NDArray[np.datetime64], close: NDArray[np.float64]
) -> tuple[Finding, ...]:
    """Whether an unused column tells apart several symbols that would be read as one.

    An error where rows of different values share dates, or follow each other with a break in time or price;
    a warning where they follow each other in time. A file that names its symbols is not looked at.
    """
    if "symbol" in index or len(table.names) == len(index):
        return ()
    shared = len(time) - len(np.unique(time))
    for name, code, values in _labels(table, index):
        if shared > FEW:
            if len(np.unique(np.stack([code, time.astype(np.int64)]), axis=1).T) < len(time):
                continue
            broken, what = True, f"rows that share {shared} dates"
        else:
            if (np.diff(code) != 0).sum() != code.max() or np.bincount(code).min() <= FEW:
                continue
            broken, what = _turns_back(code, time), "rows one after the other"
            if not broken and _is_number(values):
                continue  # shares outstanding, say
            broken = broken or _jumps(code, close)
        known = ", ".join(quoted(value, 20) for value in values[:3]) + (", ..." if len(values) > 3 else "")
        message = f"the column {name!r} ({known}) tells apart {what}"
        fix = f"if it names the symbols: data.columns.symbol={name!r}; else remove it from the file"
        return (_finding("error" if broken else "warning", "symbol-column", file, message, fix),)
    return ()


def _twice(names: tuple[str, ...], index: Index) -> list[str]:
    """The names of prices that several columns have, where those of all four prices do."""
    bases = [re.sub(r"\.\d+$", "", name) for name in names]
    plains = [plain(base if base in names else name) for base, name in zip(bases, names, strict=True)]
    twice = [names[index[price]] for price in _PRICES if plains.count(plain(names[index[price]])) > 1]
    return twice if len(twice) == len(_PRICES) else []


def _labels(table: Table, index: Index) -> Iterator[tuple[str, NDArray[np.int64], list[str]]]:
    """Unused columns of few different values: name, the place (N,) of each row's value, the values."""
    used = set(index.values())
    for at, name in enumerate(table.names):
        if at in used or not name:
            continue
        cells = table.column(at).cast(pl.String).str.strip_chars().fill_null("")
        if 2 <= cells.n_unique() <= len(cells) // FEW:
            values = cells.unique(maintain_order=True)
            code = cells.replace_strict(values, pl.int_range(len(values), eager=True), return_dtype=pl.Int64)
            yield name, code.to_numpy(), values.to_list()


def _is_number(values: list[str]) -> bool:
    return any(re.fullmatch(r"[-+]?[\d.,]*(?:[eE][-+]?\d+)?", value) for value in values)


def _turns_back(code: NDArray[np.int64], time: NDArray[np.datetime64]) -> bool:
    """Whether time runs the other way where one value follows another."""
    steps = np.sign(np.diff(time).astype(np.int64))
    return bool((steps[np.diff(code) != 0] != np.sign(np.median(steps))).any())


def _jumps(code: NDArray[np.int64], close: NDArray[np.float64]) -> bool:
    """Whether the close moves by more than 40% where one value follows another."""
    with np.errstate(all="ignore"):
        move = np.abs(np.diff(np.log(close)))
    return bool((move[np.diff(code) != 0] > np.log(SPLIT_MOVE)).any())


def _finding(level: Level, rule: str, file: str, message: str, fix: str) -> Finding:
    return Finding(level, rule, file, "", "", 0, message, fix)
