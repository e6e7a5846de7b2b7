"""Tables of several symbols side by side, and tables whose column names hold their symbol.

Legend: N rows of a file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from stockenh.data.readers.columns import NAMES, PRICES, Names, Table, plain, without_counts

_CORNER: Final = ("", "price", "ticker", "tickers", "symbol", "symbols", "date", "datetime", "attributes")
_NUMBER: Final = re.compile(r"[-+.,\d\s]*(?:[eE][-+]?\d+)?")


# What a line below the names says about the cells' unit or type, where a line of tickers would be.
_UNITS: Final = {
    "usd", "eur", "gbp", "gbx", "jpy", "inr", "cny", "hkd", "chf", "cad", "aud", "nzd", "sek",
    "nok", "dkk", "pln", "czk", "huf", "brl", "mxn", "zar", "sgd", "krw", "twd", "thb", "idr",
    "try", "rub", "ars", "clp", "ils", "rs", "rupees", "dollars", "shares", "contracts", "lots",
    "units", "pct", "percent", "na", "nan", "none", "float", "float64", "double", "decimal", "int",
    "integer", "int64", "number", "numeric", "string", "str", "object",
}  # fmt: skip
_FIELDS: Final = frozenset(
    name
    for part in ("open", "high", "low", "close", "volume", "adj_close")
    for name in NAMES[part]
    if len(name) > 1
) | {"adjusted", "dividends", "stocksplits", "capitalgains"}
# Words before or after a field that say which price it is, and name no symbol.
_NO_TICKERS: Final = {
    "price", "px", "adj", "adjusted", "unadjusted", "raw", "bid", "ask", "mid", "mark", "day",
    "daily", "prev", "previous", "last", "stock", "value", "regular", "index", "trade", "session",
    "market",
}  # fmt: skip
_TICKER: Final = re.compile(r"[^()\[\]{}'\",;]{1,100}")
_BETWEEN: Final = re.compile(r"[_.\s|:/-]")
Cell = tuple[str, str]  # the field and the ticker that one column name holds


def stack_tickers(frame: pl.DataFrame) -> tuple[Names, pl.DataFrame] | None:
    """Names and rows of a table whose first two rows name fields and tickers; None where they don't.

    Either row may come first; a third row that only says Date is left out. The names are Date, Ticker and
    the fields. A ticker's rows without any value are left out.
    """
    rows = [tuple((cell or "").strip() for cell in frame.row(i)) for i in range(min(3, frame.height))]
    if len(rows) < 2:
        return None
    for fields, tickers in ((rows[0], rows[1]), (rows[1], rows[0])):
        if are_levels(fields, tickers):
            only_date = len(rows) > 2 and plain(rows[2][0]) in _CORNER and not any(rows[2][1:])
            fields, tickers = without_counts(fields), without_counts(tickers)
            cells = dict(zip(frame.columns[1:], zip(fields[1:], tickers[1:], strict=True), strict=True))
            return _unstack(frame.slice(3 if only_date else 2), {frame.columns[0]: "Date"}, cells)
    return None


def are_levels(fields: Names, tickers: Names) -> bool:
    """Whether two lines name fields and tickers: every ticker has a price, and none is a unit or a number."""
    if len(fields) != len(tickers) or len(fields) < 5:
        return False
    if plain(fields[0]) not in _CORNER or plain(tickers[0]) not in _CORNER:
        return False
    plains = [plain(field) for field in without_counts(fields[1:])]
    if not all(fields[1:]) or not set(plains) >= set(PRICES):
        return False
    names = without_counts(tickers[1:])
    if any(_NUMBER.fullmatch(name) or plain(name) in _UNITS for name in names):
        return False
    priced = {name for name, field in zip(names, plains, strict=True) if field in PRICES}
    return priced == set(names)


def split_columns(table: Table, mapping: Mapping[str, str]) -> Table:
    """Rows per symbol from columns called Close_AAPL, AAPL.Close or ('Close', 'AAPL').

    Other tables stay as they are, also where `mapping` (canonical -> own name) has full names of columns.
    """
    if set(mapping.values()) & set(table.names):
        return table
    found = split_names(table.names)
    if found is None:
        return table
    columns = table.frame.columns
    cells = {columns[at]: cell for at, cell in found.items()}
    kept = {columns[at]: name for at, name in enumerate(map(_tuple_date, table.names)) if at not in found}
    dates = [column for column, name in kept.items() if plain(name) in NAMES["date"] or plain(name) == "time"]
    if not dates:
        return table
    names, frame = _unstack(table.frame, {column: kept[column] for column in dates}, cells)
    zones = {
        at: table.zones[columns.index(c)] for at, c in enumerate(dates) if columns.index(c) in table.zones
    }
    split = replace(table, names=names, frame=frame, zones=zones)
    plains = set(map(plain, names))
    return split if all(plain(own) in plains for own in mapping.values()) else table


def split_names(names: Sequence[str]) -> dict[int, Cell] | None:
    """The field and ticker in each column name, by position; None unless a ticker has all four prices.

    Columns of other names, and of tickers without all four prices, are not in it.
    """
    plains = set(map(plain, names))
    if len(names) < 5 or plains >= set(PRICES):
        return None
    best: dict[int, Cell] = {}
    for field_first in (True, False):
        cells = {at: cell for at, name in enumerate(names) if (cell := _cell(name, field_first))}
        fields: dict[str, set[str]] = {}
        for field, ticker in cells.values():
            fields.setdefault(ticker, set()).add(plain(field))
        whole = {ticker for ticker, own in fields.items() if own >= set(PRICES)}
        if any(plain(ticker) in _NO_TICKERS for ticker in whole):
            continue
        if all(plain(ticker) in _UNITS for ticker in whole):
            continue
        cells = {at: cell for at, cell in cells.items() if cell[1] in whole}
        best = max(best, cells, key=len)
    return best or None


def _cell(name: str, field_first: bool) -> Cell | None:
    """Field and ticker of one column name, the field as long as possible."""
    if pair := _pair(name):
        first, second = pair
        field, ticker = (first, second) if field_first else (second, first)
        return _named(field, ticker) if plain(field) in _FIELDS else None
    cuts = [found.start() for found in _BETWEEN.finditer(name[:200])]
    for cut in reversed(cuts) if field_first else cuts:
        before, after = name[:cut], name[cut + 1 :]
        field, ticker = (before, after) if field_first else (after, before)
        if plain(field) in _FIELDS and ticker.strip(" _.-|:/"):
            return _named(field, ticker.strip())
    return None


def _named(field: str, ticker: str) -> Cell | None:
    name = {"adjusted": "Adj Close"}.get(plain(field), field.strip())  # quantmod's AAPL.Adjusted
    return (name, ticker) if _TICKER.fullmatch(ticker) else None


def _pair(name: str) -> tuple[str, str] | None:
    """The two texts of a name such as ('Close', 'AAPL'), which is how pandas stores names of two levels."""
    if not name.startswith("(") or len(name) > 200:
        return None
    try:
        value = ast.literal_eval(name)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return value
    return None


def _tuple_date(name: str) -> str:
    """Date for ('Date', ''); other names as they are."""
    pair = _pair(name)
    return "".join(pair) if pair and not all(pair) else name


def _unstack(
    body: pl.DataFrame, dates: Mapping[str, str], cells: Mapping[str, Cell]
) -> tuple[Names, pl.DataFrame]:
    """Rows per ticker of the columns named in `cells`, beside the columns `dates` (column -> name)."""
    fields = tuple(dict.fromkeys(field for field, _ in cells.values()))
    names = (*dates.values(), "Ticker", *fields)
    by_ticker: dict[str, dict[str, str]] = {}
    for column, (field, ticker) in cells.items():
        by_ticker.setdefault(ticker, {}).setdefault(field, column)
    series = dict(zip(body.columns, body.get_columns(), strict=True))
    keys = {f"d{i}": series[name] for i, name in enumerate(dates)}
    empty = pl.repeat(None, body.height, dtype=pl.Null, eager=True)
    parts = []
    for ticker, own in by_ticker.items():
        values = {f"v{i}": series[own[field]] if field in own else empty for i, field in enumerate(fields)}
        part = pl.DataFrame({**keys, "ticker": pl.repeat(ticker, body.height, eager=True), **values})
        parts.append(part.filter(pl.any_horizontal(pl.col("^v.*$").is_not_null())))
    return names, pl.concat(parts, how="vertical_relaxed")
