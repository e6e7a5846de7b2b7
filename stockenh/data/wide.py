"""Tickers side by side, as yfinance lays them out, put below each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import polars as pl

from stockenh.data.columns import plain

Names = tuple[str, ...]

_FIELDS: Final = {"open", "high", "low", "close"}
_CORNER: Final = ("", "price", "ticker", "tickers", "symbol", "symbols", "date", "datetime", "attributes")
_NUMBER: Final = re.compile(r"[-+.,\d\s]*(?:[eE][-+]?\d+)?")


def stacked(frame: pl.DataFrame) -> tuple[Names, pl.DataFrame] | None:
    """The names and rows of a table whose first two rows name fields and tickers; None where it has no such.

    Either row may come first; a third row that only says Date is left out. The names are Date, Ticker and
    the fields. A ticker's rows without any value are left out.
    """
    rows = [tuple((cell or "").strip() for cell in frame.row(i)) for i in range(min(3, frame.height))]
    if len(rows) < 2:
        return None
    for fields, tickers in ((rows[0], rows[1]), (rows[1], rows[0])):
        if _are_levels(fields, tickers):
            only_date = len(rows) > 2 and plain(rows[2][0]) in _CORNER and not any(rows[2][1:])
            return _unstack(frame.slice(3 if only_date else 2), _bases(fields), _bases(tickers))
    return None


def _are_levels(fields: Names, tickers: Names) -> bool:
    if plain(fields[0]) not in _CORNER or plain(tickers[0]) not in _CORNER:
        return False
    named = all(fields[1:]) and {plain(field) for field in _bases(fields[1:])} >= _FIELDS
    return named and not any(_NUMBER.fullmatch(ticker) for ticker in tickers[1:])


def _bases(names: Sequence[str]) -> Names:
    """Names without the .1, .2 that pandas puts behind repeated ones."""
    bases = [re.sub(r"\.\d+$", "", name) for name in names]
    return tuple(base if base in names else name for base, name in zip(bases, names, strict=True))


def _unstack(body: pl.DataFrame, fields: Names, tickers: Names) -> tuple[Names, pl.DataFrame]:
    names = ("Date", "Ticker", *dict.fromkeys(fields[1:]))
    parts = []
    for ticker in dict.fromkeys(tickers[1:]):
        own = {
            field: body.to_series(i)
            for i, (field, its) in enumerate(zip(fields, tickers, strict=True))
            if i and its == ticker
        }
        nothing = pl.Series([None], dtype=pl.String).new_from_index(0, body.height)
        columns = [body.to_series(0), pl.Series([ticker]).new_from_index(0, body.height)]
        columns += [own.get(name, nothing) for name in names[2:]]
        part = pl.DataFrame([column.alias(str(i)) for i, column in enumerate(columns)])
        parts.append(part.filter(pl.any_horizontal(pl.all().exclude("0", "1").is_not_null())))
    return names, pl.concat(parts)
