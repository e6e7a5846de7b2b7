"""From a table's cells to rows of bars per symbol; unreadable rows are left out and counted.

Legend: N rows of a file, n rows of one symbol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from stockenh.data.findings import Finding, Level, Mask, Rows, first_few, quoted
from stockenh.data.readers.columns import (
    Index,
    Names,
    Table,
    column_findings,
    equity_only,
    match_columns,
    mixed_symbols,
    no_volume,
    plain,
    with_volume,
)
from stockenh.data.readers.dates import DateOrder, Dates, last_day, parse_clock, parse_dates
from stockenh.data.readers.file_names import display_name, symbol_of, without_period
from stockenh.data.readers.numbers import DecimalSign, Numbers, decimal_sign, parse_numbers
from stockenh.data.readers.row_rules import Reason, leave_out
from stockenh.data.readers.table import load_table
from stockenh.errors import printable_line

_MOST_SYMBOLS: Final = 20_000
_OHLCV: Final = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class ReadSettings:
    """How to read bars.

    columns:      canonical name -> the file's own column name; wins over guessing
    adjust:       use an adjusted close, where there is one, to undo splits and dividends
    max_gap_days: a symbol's history is cut where more calendar days lie between two bars
    min_bars:     shorter stretches are left out
    dayfirst:     whether 1/4/1999 is 1 April where no date of the file proves an order; None: the likely one
    own:          columns that the user says are something else: no symbols
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    adjust: bool = True
    max_gap_days: int = 30
    min_bars: int = 131
    dayfirst: bool | None = None
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """What one file holds: the rows of each symbol and findings; the names of its columns and date order."""

    rows: Mapping[str, Rows]
    findings: tuple[Finding, ...]
    names: Names = ()
    order: DateOrder | None = None


def parse_file(path: Path, settings: ReadSettings, today: np.datetime64) -> Parsed:
    """The rows of each symbol in one CSV or Parquet file, and findings.

    Without `settings.adjust`, an adjusted close is not read; rows after the day that follows `today` are left
    out. No rows, and an error finding with the reason, where the file can't be used.
    """
    file = display_name(path)
    table, found = load_table(path, settings.columns)
    if table is None:
        return Parsed({}, found)
    columns = match_columns(table.names, settings.columns)
    found += column_findings(file, table, columns)
    if _has_error(found):
        return Parsed({}, found)
    table, more = equity_only(file, table, columns.index)
    index, volume = with_volume(file, table, columns.index)
    cells = _read_cells(file, table, index, symbol_of(path), settings, today)
    found += _too_many_symbols(cells)
    if _has_error(found):
        return Parsed({}, found)
    found += more + volume + _number_findings(cells) + _order_clash(cells, table, index)
    named = {plain(name) for name in settings.own}
    own = {f"own {name}": at for at, name in enumerate(table.names) if plain(name) in named}
    found += mixed_symbols(file, table, {**index, **own}, cells.rows.time, cells.rows.ohlcv[:, 3])
    if _has_error(found):
        return Parsed({}, found)
    alive, drops = leave_out(_hits(cells, today), cells.rows, cells.only)
    found += drops + date_findings(cells.dates, file, cells.only)
    if not alive.any() and not _has_error(drops):
        message = "no row is left after the others were left out"
        found += (cells.finding("error", "too-short", message, "correct the file, or fetch it again"),)
    rows = dict(_by_symbol(cells, alive))
    if "volume" in index:
        found += _untraded(file, rows, table, index)
    if "symbol" not in index:
        rows = {without_period(symbol, own.time): own for symbol, own in rows.items()}
    return Parsed(rows, found, table.names, cells.dates.order)


def _too_many_symbols(cells: _Cells) -> tuple[Finding, ...]:
    count = cells.symbols.n_unique()
    if count <= _MOST_SYMBOLS:
        return ()
    message = f"{count:,} symbols, and at most {_MOST_SYMBOLS:,} are read"
    fix = "name the column of the symbols: data.columns.symbol=NAME, or split the file"
    return (cells.finding("error", "too-large", message, fix),)


def _untraded(file: str, rows: Mapping[str, Rows], table: Table, index: Index) -> tuple[Finding, ...]:
    """A warning about the symbols without any volume."""
    untraded = [symbol for symbol, own in rows.items() if not (own.volume != 0).any()]
    if not untraded:
        return ()
    only = untraded[0] if len(rows) == 1 else ""
    of = "" if len(untraded) == len(rows) else f" of {first_few(untraded)}"
    return (no_volume(file, only, f"the volume{of} is 0 in every row", table, index),)


def _has_error(found: Sequence[Finding]) -> bool:
    return any(finding.level == "error" for finding in found)


@dataclass(frozen=True)
class _Cells:
    """A file's cells as read: rows (N,) of all its symbols, and what could not be read.

    symbols:    (N,) text; only: the one symbol of the file, or ""
    blank:      (N,) no numbers at all; unreadable: (N,) some cell is not a number
    bad_number: the first unreadable number as text, bad_date: the first unreadable date
    """

    symbols: pl.Series
    only: str
    rows: Rows
    dates: Dates
    sign: DecimalSign
    blank: Mask
    unreadable: Mask
    bad_number: str
    bad_date: str

    def finding(self, level: Level, rule: str, message: str, fix: str) -> Finding:
        """A finding about the file as a whole."""
        return Finding(level, rule, message, fix, self.rows.files[0], self.only)


def _read_cells(
    file: str, table: Table, index: Index, file_symbol: str, settings: ReadSettings, today: np.datetime64
) -> _Cells:
    symbols = symbols_of(table, index, file_symbol)
    dates = dates_of(table, index, today, settings.dayfirst)
    fields = [name for name in _OHLCV if name in index]
    fields += ["adj_close"] if "adj_close" in index and settings.adjust else []
    raw = {name: table.column(index[name]) for name in fields}
    numbers, sign = numbers_of(raw, table.separator)
    unreadable = np.logical_or.reduce([number.unreadable for number in numbers.values()])
    untraded = np.zeros(len(symbols))
    ohlcv = np.stack([numbers[name].value if name in numbers else untraded for name in _OHLCV], axis=1)
    missing = np.logical_and.reduce([np.isnan(numbers[name].value) for name in _OHLCV if name in numbers])
    adj_close = numbers["adj_close"].value if "adj_close" in numbers else None
    blank = missing & ~unreadable
    return _Cells(
        symbols=symbols,
        only=symbols[0] or "" if symbols.n_unique() == 1 else "",
        rows=Rows(dates.time, ohlcv, adj_close, (file,)),
        dates=dates,
        sign=sign,
        blank=blank,
        unreadable=unreadable,
        bad_number=_first_text([(raw[name], numbers[name].unreadable) for name in fields]),
        bad_date=_first_text([(table.column(index["date"]), np.isnat(dates.time) & ~blank)]),
    )


def numbers_of(raw: Mapping[str, pl.Series], separator: str) -> tuple[dict[str, Numbers], DecimalSign]:
    """A file's columns of numbers, read with the one decimal sign that they prove together."""
    numbers = {name: parse_numbers(column) for name, column in raw.items()}
    if all(number.plain for number in numbers.values()):
        return numbers, DecimalSign()
    sign = decimal_sign(raw, separator)
    if sign.comma or sign.mixed:
        numbers = {name: parse_numbers(column, sign, name) for name, column in raw.items()}
    return numbers, sign


def symbols_of(table: Table, index: Index, file_symbol: str) -> pl.Series:
    """The symbol of each row, null where it is empty; without a column of symbols that of the file's name."""
    from_name = pl.Series([file_symbol]).new_from_index(0, table.frame.height)
    if "symbol" not in index:
        return from_name
    symbols = table.column(index["symbol"]).cast(pl.String).str.strip_chars().replace({"": None})
    if table.names[index["symbol"]].startswith("<"):
        symbols = symbols.str.strip_suffix(".US")
    if symbols.null_count() == len(symbols):
        return from_name
    names = symbols.unique().drop_nulls()
    return symbols.replace({name: clean for name in names if (clean := printable_line(name)) != name})


def dates_of(table: Table, index: Index, today: np.datetime64, day_first: bool | None) -> Dates:
    """The date of each row, with its time of day where that is a column of its own."""
    dates = parse_dates(table.column(index["date"]), today, day_first)
    dates = replace(dates, zone=table.zones.get(index["date"], dates.zone))
    if "time" not in index:
        return dates
    return replace(dates, time=dates.time + parse_clock(table.column(index["time"])))


def _first_text(columns: Sequence[tuple[pl.Series, Mask]]) -> str:
    for column, mask in columns:
        if mask.any():
            cell = column[int(mask.argmax())]
            return quoted("" if cell is None else str(cell), 40)
    return ""


def _hits(cells: _Cells, today: np.datetime64) -> list[tuple[Reason, Mask]]:
    blank = "nothing to do, the lines are empty"
    date = "write it as 2024-01-31, or name it: data.columns.date=NAME"
    future = "correct it, and write years with four digits"
    number = "correct it, or map the right column: data.columns"
    time = cells.rows.time
    return [
        (Reason("blank-row", "no prices and no volume", blank, harmless=True), cells.blank),
        (Reason("date-unreadable", f"the date can't be read: {cells.bad_date}", date), np.isnat(time)),
        (
            Reason("future-date", "the date lies after tomorrow", future),
            time.astype("datetime64[D]") > last_day(today),
        ),
        (
            Reason("symbol-missing", "no symbol", "fill the symbol column of these rows"),
            cells.symbols.is_null().to_numpy(),
        ),
        (
            Reason("number-unreadable", f"a price or volume is not a number: {cells.bad_number}", number),
            cells.unreadable,
        ),
    ]


def _number_findings(cells: _Cells) -> tuple[Finding, ...]:
    if cells.sign.clash:
        message = f"two decimal signs: {cells.sign.clash}"
        return (cells.finding("error", "decimal-sign", message, "write all numbers with a decimal point"),)
    if cells.sign.doubt:
        kind = "a decimal comma" if cells.sign.comma else "a comma between thousands"
        message = f"{cells.sign.doubt!r} and the like were read with {kind}, though no number proves it"
        return (cells.finding("warning", "decimal-sign", message, "write them with a decimal point"),)
    return ()


def _order_clash(cells: _Cells, table: Table, index: Index) -> tuple[Finding, ...]:
    order = cells.dates.order
    if order is None or not order.clash:
        return ()
    texts = table.column(index["date"]).cast(pl.String)
    day, month = (
        quoted(str(texts.filter(texts.str.contains(form))[0]), 20)
        for form in (r"^\s*(?:1[3-9]|2\d|3[01])\D", r"^\s*\d+\D(?:1[3-9]|2\d|3[01])\D")
    )
    message = f"in {day} the day comes first, in {month} the month: the order of the other dates is unknown"
    fix = "write dates as 2024-01-31, or put the rows of each order into a file of their own"
    return (cells.finding("error", "date-order", message, fix),)


def date_findings(dates: Dates, file: str, symbol: str = "") -> tuple[Finding, ...]:
    """Warnings about dates whose order or time zone was assumed."""
    found = []
    if dates.ambiguous:
        message = "day and month can't be told apart in any date; month first was assumed"
        fix = "if the day comes first: data.dayfirst=true, else data.dayfirst=false; or write 2024-01-31"
        found.append(Finding("warning", "date-order", message, fix, file, symbol))
    if dates.zone == "epoch":
        message = "dates are counted from 1970 and were read as UTC"
        fix = "write the exchange's dates as 2024-01-31"
        found.append(Finding("warning", "time-zone", message, fix, file, symbol))
    elif dates.zone:
        message = f"dates carry a time zone ({dates.zone}): used as written, without the zone"
        fix = "nothing to do if they are the exchange's dates; else convert them"
        found.append(Finding("warning", "time-zone", message, fix, file, symbol))
    return tuple(found)


def _by_symbol(cells: _Cells, alive: Mask) -> Iterator[tuple[str, Rows]]:
    """The remaining rows of each symbol, in the order of the file."""
    if not alive.any():
        return
    rows, symbols = cells.rows, cells.symbols
    if not alive.all():
        rows, symbols = rows.take(alive), symbols.filter(pl.Series(alive))
    if symbols.n_unique() == 1:
        yield str(symbols[0]), rows
        return
    code = symbols.rank("dense").to_numpy()
    order = np.argsort(code, kind="stable")
    for index in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        yield str(symbols[int(index[0])]), rows.take(index)
