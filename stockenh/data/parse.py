"""From a table's cells to rows of bars per symbol, with what could not be read left out and counted.

Legend: N rows of a file, n rows of one symbol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from stockenh.data.columns import REQUIRED, Columns, match_columns
from stockenh.data.dates import Dates, parse_clock, parse_dates
from stockenh.data.findings import Finding, Level, quoted
from stockenh.data.numbers import parse_numbers, uses_decimal_comma
from stockenh.data.rules import Mask, Reason, Rows, leave_out
from stockenh.data.table import Table, load_table

_PRICES: Final = ("open", "high", "low", "close")
_OHLCV: Final = (*_PRICES, "volume")

BLANK_ROW: Final = Reason(
    "blank-row", "no prices and no volume", "nothing to do, the lines are empty", harmless=True
)
SYMBOL_MISSING: Final = Reason("symbol-missing", "no symbol", "fill the symbol column of these rows")
DATE_UNREADABLE: Final = Reason(
    "date-unreadable", "the date can't be read", "write it as 2024-01-31, or name it: data.columns.date=NAME"
)
NUMBER_UNREADABLE: Final = Reason(
    "number-unreadable", "a price or volume is no number", "correct it, or map the right column: data.columns"
)


@dataclass(frozen=True)
class Part:
    """What one file says about one symbol."""

    file: str
    symbol: str
    rows: Rows


def parse_file(
    path: Path, mapping: Mapping[str, str], adjust: bool
) -> tuple[tuple[Part, ...], tuple[Finding, ...]]:
    """Reads one CSV or Parquet file.

    `mapping` (canonical -> own column name) wins over guessed columns; without `adjust`, an adjusted close is
    not read. No parts, and an error finding that says why, where the file can't be used.
    """
    table, found = load_table(path)
    if table is None:
        return (), found
    columns = match_columns(table.names, mapping)
    found += _column_findings(path, table, columns)
    if any(finding.level == "error" for finding in found):
        return (), found
    table, more = _equity_only(path, table, columns.index)
    index, no_volume = _with_volume(path, table, columns.index)
    more += no_volume
    cells = _read_cells(table, index, symbol_of(path), adjust)
    alive, drops = leave_out(_hits(cells), cells.rows.time, path.name, cells.only)
    found += more + drops + _date_findings(path, cells)
    if not alive.any() and not any(finding.level == "error" for finding in drops):
        message = "no row is left after the others were left out"
        found += (_finding("error", "too-short", path, message, "mend the file, or fetch it again"),)
    return tuple(_parts(path, cells, alive)), found


def symbol_of(path: Path) -> str:
    """The symbol in a file's name: BRK.B.csv is BRK.B; Stooq's aapl.us.txt and aapl_us_d.csv are AAPL."""
    stem = path.name
    for suffix in (".gz", ".csv", ".txt", ".parquet"):
        if stem.lower().endswith(suffix) and len(stem) > len(suffix):
            stem = stem[: -len(suffix)]
    if path.name.lower().endswith(".txt"):
        return stem.upper().removesuffix(".US")
    if stem.endswith("_us_d"):
        return stem.removesuffix("_us_d").upper()
    for prefix in ("daily_adjusted_", "daily_"):
        if stem.startswith(prefix) and len(stem) > len(prefix):
            return stem.removeprefix(prefix)
    return stem


def _finding(level: Level, rule: str, path: Path, message: str, fix: str) -> Finding:
    return Finding(level, rule, path.name, "", "", 0, message, fix)


def _column_findings(path: Path, table: Table, columns: Columns) -> tuple[Finding, ...]:
    found = []
    names = ", ".join(name or "''" for name in table.names)
    names = names if len(names) <= 200 else names[:200] + " ..."
    for absent in columns.absent:
        message = f"no column is called {absent!r}, which data.columns names; the file has {names}"
        found.append(_finding("error", "mapped-column-missing", path, message, "correct data.columns"))
    if columns.missing and not columns.absent:
        fix = "name it: " + " ".join(f"data.columns.{name}=NAME" for name in columns.missing)
        if columns.missing == REQUIRED:
            fix = "begin the file with a line of names such as Date,Open,High,Low,Close,Volume, or remove it"
        message = f"no column for {', '.join(columns.missing)}; the file has {names}"
        found.append(_finding("error", "column-missing", path, message, fix))
    if columns.close_among:
        first, *others = columns.close_among
        message = f"the close could be {', '.join(map(repr, columns.close_among))}; {first!r} was taken"
        fix = f"if that is wrong: data.columns.close={others[0]!r}"
        found.append(_finding("warning", "several-closes", path, message, fix))
    return tuple(found)


def _with_volume(
    path: Path, table: Table, index: Mapping[str, int]
) -> tuple[Mapping[str, int], tuple[Finding, ...]]:
    """The index without a volume column that never says anything, and a warning where there is no volume."""
    what = "no volume column"
    if "volume" in index:
        volume = parse_numbers(table.column(index["volume"]))
        if volume.unreadable.any() or not np.isnan(volume.value).all():
            return index, ()
        what = "the volume column is empty"
    fix = "name it: data.columns.volume=NAME; for an index there is nothing to do"
    without = {name: at for name, at in index.items() if name != "volume"}
    return without, (_finding("warning", "no-volume", path, f"{what}; volume is taken as 0", fix),)


def _equity_only(path: Path, table: Table, index: Mapping[str, int]) -> tuple[Table, tuple[Finding, ...]]:
    """Keeps the rows of the series EQ, where an Indian export has any."""
    if "series" not in index:
        return table, ()
    equity = table.column(index["series"]).cast(pl.String).str.strip_chars() == "EQ"
    equity = equity.fill_null(False)
    others = int((~equity).sum())
    if not others or others == len(equity):
        return table, ()
    message = f"{others} of {len(equity)} rows left out: not of the equity series EQ"
    finding = Finding("drop", "other-series", path.name, "", "", others, message, "nothing to do")
    return replace(table, frame=table.frame.filter(equity)), (finding,)


@dataclass(frozen=True)
class _Cells:
    """A file's cells as read: rows (N,) of all its symbols, and what could not be read.

    symbols: (N,) text; only: the one symbol of the file, or ""
    unreadable: (N,) some number was no number; its first text, and that of the first unreadable date
    """

    symbols: pl.Series
    only: str
    rows: Rows
    dates: Dates
    blank: Mask
    unreadable: Mask
    bad_number: str
    bad_date: str


def _read_cells(table: Table, index: Mapping[str, int], file_symbol: str, adjust: bool) -> _Cells:
    symbols = _symbols(table, index, file_symbol)
    dates = _dates(table, index)
    fields = [name for name in (*_OHLCV, "adj_close") if name in index and (adjust or name != "adj_close")]
    raw = {name: table.column(index[name]) for name in fields}
    comma = table.separator != "," and any(uses_decimal_comma(raw[name]) for name in _PRICES)
    numbers = {name: parse_numbers(column, comma) for name, column in raw.items()}
    unreadable = np.logical_or.reduce([number.unreadable for number in numbers.values()])
    untraded = np.zeros(len(symbols))
    ohlcv = np.stack([numbers[name].value if name in numbers else untraded for name in _OHLCV], axis=1)
    missing = np.logical_and.reduce([np.isnan(numbers[name].value) for name in _OHLCV if name in numbers])
    adj_close = numbers["adj_close"].value if "adj_close" in numbers else None
    return _Cells(
        symbols=symbols,
        only=symbols[0] or "" if symbols.n_unique() == 1 else "",
        rows=Rows(dates.time, ohlcv, adj_close),
        dates=dates,
        blank=missing & ~unreadable,
        unreadable=unreadable,
        bad_number=_first_text([(raw[name], numbers[name].unreadable) for name in fields]),
        bad_date=_first_text([(table.column(index["date"]), np.isnat(dates.time) & ~missing)]),
    )


def _symbols(table: Table, index: Mapping[str, int], file_symbol: str) -> pl.Series:
    of_file = pl.Series([file_symbol]).new_from_index(0, table.frame.height)
    if "symbol" not in index:
        return of_file
    symbols = table.column(index["symbol"]).cast(pl.String).str.strip_chars().replace({"": None})
    if table.names[index["symbol"]].startswith("<"):
        symbols = symbols.str.strip_suffix(".US")
    return of_file if symbols.null_count() == len(symbols) else symbols


def _dates(table: Table, index: Mapping[str, int]) -> Dates:
    dates = parse_dates(table.column(index["date"]))
    if "time" not in index:
        return dates
    return replace(dates, time=dates.time + parse_clock(table.column(index["time"])))


def _first_text(columns: Sequence[tuple[pl.Series, Mask]]) -> str:
    for column, mask in columns:
        if mask.any():
            return quoted(str(column[int(mask.argmax())]), 40)
    return ""


def _hits(cells: _Cells) -> list[tuple[Reason, Mask]]:
    bad_date = replace(DATE_UNREADABLE, what=f"{DATE_UNREADABLE.what}: {cells.bad_date}")
    bad_number = replace(NUMBER_UNREADABLE, what=f"{NUMBER_UNREADABLE.what}: {cells.bad_number}")
    return [
        (BLANK_ROW, cells.blank),
        (bad_date, np.isnat(cells.rows.time)),
        (SYMBOL_MISSING, cells.symbols.is_null().to_numpy()),
        (bad_number, cells.unreadable),
    ]


def _date_findings(path: Path, cells: _Cells) -> tuple[Finding, ...]:
    found = []
    if cells.dates.ambiguous:
        message = "day and month can't be told apart in any date; month first was assumed"
        found.append(_finding("warning", "date-order", path, message, "write dates as 2024-01-31"))
    if cells.dates.zone == "epoch":
        message = "dates are counted from 1970 and were read as UTC"
        fix = "write the exchange's dates as 2024-01-31"
        found.append(_finding("warning", "time-zone", path, message, fix))
    elif cells.dates.zone:
        message = f"dates carry a time zone ({cells.dates.zone}): used as written, without the zone"
        fix = "nothing to do if they are the exchange's dates; else convert them"
        found.append(_finding("warning", "time-zone", path, message, fix))
    return tuple(replace(finding, symbol=cells.only) for finding in found)


def _parts(path: Path, cells: _Cells, alive: Mask) -> Iterator[Part]:
    """The rows that are left, symbol by symbol, each in the order of the file."""
    if not alive.any():
        return
    rows, symbols = cells.rows, cells.symbols
    if not alive.all():
        rows, symbols = rows.take(alive), symbols.filter(pl.Series(alive))
    if symbols.n_unique() == 1:
        yield Part(path.name, str(symbols[0]), rows)
        return
    code = symbols.rank("dense").to_numpy()
    order = np.argsort(code, kind="stable")
    for index in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        yield Part(path.name, str(symbols[int(index[0])]), rows.take(index))
