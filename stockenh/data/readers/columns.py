"""Which of a file's columns is which: the names that public exports give to the parts of a bar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

CANONICAL: Final = ("symbol", "date", "open", "high", "low", "close", "volume", "adj_close")
REQUIRED: Final = ("date", "open", "high", "low", "close")

# Keys are names as `plain` leaves them. Earlier names win where a file has several.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "symbol": ("symbol", "ticker", "tckrsymb", "tradingsymbol", "tic", "sym", "stock", "scrip", "name"),
    "date": (
        "date", "tradedate", "tradingdate", "traddt", "date1", "datetime", "timestamp", "day", "time",
        "", "indexlevel0", "unnamed0", "index", "data",
    ),
    "open": ("open", "openprice", "opnpric", "openingprice", "o", "otwarcie"),
    "high": ("high", "highprice", "hghpric", "h", "najwyższy", "najwyzszy"),
    "low": ("low", "lowprice", "lwpric", "l", "najniższy", "najnizszy"),
    "close": ("close", "closeprice", "clspric", "closingprice", "c", "zamknięcie", "zamkniecie"),
    "volume": (
        "volume", "vol", "totaltradedquantity", "totaltradequantity", "tottrdqty", "ttltradgvol",
        "ttltrdqnty", "sharestraded", "tradedquantity", "tradedvolume", "tradedqty", "noofshares",
        "quantity", "v", "wolumen",
    ),
    "adj_close": (
        "adjclose", "adjustedclose", "closeadj", "closeadjusted", "adjcloseprice", "adjustedcloseprice",
        "adjclosingprice", "adjustedclosingprice",
    ),
    "series": ("series", "sctysrs"),
    "time": ("time",),
}  # fmt: skip
_CLOSE_LIKE: Final = ("price", "lastprice", "last", "ltp", "lasttradedprice", "settle", "settleprice")


@dataclass(frozen=True)
class Columns:
    """The position of each part of a bar among a file's columns.

    index:  canonical name (also "series" and "time" where the file has them) -> position
    close_among: names of several columns that could all be the close, the one taken first; else empty
    absent: names from an explicit mapping that the file does not have
    """

    index: Mapping[str, int]
    close_among: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Required parts of a bar that no column gives."""
        return tuple(name for name in REQUIRED if name not in self.index)


def plain(name: str) -> str:
    """A column name without case, punctuation and list number: "5. Adjusted Close" is adjustedclose."""
    return re.sub(r"^\d+(?=\D)", "", re.sub(r"[\W_]+", "", name.lower()))


def match_columns(names: Sequence[str], mapping: Mapping[str, str]) -> Columns:
    """Finds the parts of a bar among column names; `mapping` (canonical -> own name) wins over guessing."""
    plains = [plain(name) for name in names]
    index: dict[str, int] = {}
    absent: list[str] = []
    for canonical, own in mapping.items():
        found = _position(names, plains, own)
        if found is None:
            absent.append(own)
        else:
            index[canonical] = found
    close_among: tuple[str, ...] = ()
    if "close" not in mapping:
        candidates = _close_candidates(plains, set(index.values()))
        if candidates:
            index["close"] = candidates[0]
            close_among = tuple(names[i] for i in candidates) if len(candidates) > 1 else ()
    for canonical, known in _NAMES.items():
        if canonical in index or canonical in mapping or canonical == "close":
            continue
        taken = set(index.values())
        for name in known:
            if name in plains and plains.index(name) not in taken:
                index[canonical] = plains.index(name)
                break
    return Columns(index, close_among, tuple(absent))


def _position(names: Sequence[str], plains: Sequence[str], own: str) -> int | None:
    if own in names:
        return list(names).index(own)
    wanted = plain(own)
    return plains.index(wanted) if wanted in plains else None


def _close_candidates(plains: Sequence[str], taken: set[int]) -> list[int]:
    """Positions that could be the close, best first; a single exact name leaves no doubt."""
    for name in _NAMES["close"]:
        exact = [i for i, known in enumerate(plains) if known == name and i not in taken]
        if exact:
            return exact
    known = [i for like in _CLOSE_LIKE for i, name in enumerate(plains) if name == like]
    named = [
        i
        for i, name in enumerate(plains)
        if "close" in name and not name.startswith(("prev", "previous", "adj")) and "adj" not in name
    ]
    return [i for i in (*named, *known) if i not in taken]


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
