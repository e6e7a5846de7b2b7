"""Which of a table's columns is which: the names that public exports give to the parts of a bar.

Legend: N rows of a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data.findings import Finding, quoted
from stockenh.data.readers.numbers import is_empty
from stockenh.data.readers.series_rules import FEW, SPLIT_MOVE

PRICES: Final = ("open", "high", "low", "close")
REQUIRED: Final = ("date", *PRICES)

Index = Mapping[str, int]  # canonical name -> position
Names = tuple[str, ...]

_SERIES: Final = {"EQ": 0, "BE": 1, "BZ": 2}

# Keys are names as `plain` leaves them. Earlier names win where a file has several.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "symbol": (
        "symbol", "ticker", "tckrsymb", "tradingsymbol", "tic", "sym", "stock", "scrip", "name",
        "indexname",
    ),
    "date": (
        "date", "tradedate", "tradingdate", "traddt", "date1", "datetime", "timestamp", "day", "time",
        "", "indexlevel0", "unnamed0", "index", "data", "indexdate", "opentime", "windowstart", "starttime",
        "unix", "unixtime", "unixtimestamp", "epoch", "t",
    ),
    "open": ("open", "openprice", "opnpric", "openingprice", "o", "otwarcie", "openindexvalue"),
    "high": ("high", "highprice", "hghpric", "h", "najwyższy", "najwyzszy", "highindexvalue"),
    "low": ("low", "lowprice", "lwpric", "l", "najniższy", "najnizszy", "lowindexvalue"),
    "close": (
        "close", "closeprice", "clspric", "closingprice", "c", "zamknięcie", "zamkniecie",
        "closingindexvalue",
    ),
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

    index:       where each part is, also "series" and "time" where the file has them
    close_among: names of several columns that could all be the close, the one taken first; else empty
    absent:      names from an explicit mapping that the file does not have
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
        if own in names:
            index[canonical] = list(names).index(own)
        elif plain(own) in plains:
            index[canonical] = plains.index(plain(own))
        else:
            absent.append(own)
    close_among: tuple[str, ...] = ()
    if "close" not in mapping:
        candidates = _close_candidates(plains, set(index.values()))
        if candidates:
            index["close"] = candidates[0]
            close_among = tuple(names[i] for i in candidates) if len(candidates) > 1 else ()
    for canonical, known in NAMES.items():
        if canonical in index or canonical in mapping or canonical == "close":
            continue
        taken = set(index.values())
        for name in known:
            if name in plains and plains.index(name) not in taken:
                index[canonical] = plains.index(name)
                break
    return Columns(index, close_among, tuple(absent))


def _close_candidates(plains: Sequence[str], taken: set[int]) -> list[int]:
    """Positions that could be the close, best first; a single exact name leaves no doubt."""
    for name in NAMES["close"]:
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


@dataclass(frozen=True)
class Table:
    """The cells of a file: `frame` has one column per name, in order."""

    names: tuple[str, ...]
    frame: pl.DataFrame
    separator: str = ","
    zones: Mapping[int, str] = field(default_factory=dict)  # position -> the time zone that it had

    def column(self, position: int) -> pl.Series:
        """The cells of one column: numbers, dates or timestamps where the file has such types, else text."""
        cells = self.frame.to_series(position)
        dtype = cells.dtype
        if dtype.is_numeric() or dtype in (pl.String, pl.Date, pl.Datetime):
            return cells
        if dtype in (pl.Categorical, pl.Enum, pl.Boolean):
            return cells.cast(pl.String)
        if dtype.is_nested() or dtype == pl.Object:  # no part of a bar, and costly to write out
            return pl.repeat(f"a {dtype.base_type()}", len(cells), eager=True)
        texts = [c.decode("utf-8", "replace") if isinstance(c, bytes) else c for c in cells]
        return pl.Series([None if text is None else str(text) for text in texts], dtype=pl.String)


def column_findings(file: str, table: Table, columns: Columns) -> tuple[Finding, ...]:
    """Findings about the names of a file's columns."""
    found = []
    names = ", ".join(name or "''" for name in table.names)
    names = names if len(names) <= 200 else names[:200] + " ..."
    if columns.absent:
        absent = " or ".join(map(repr, columns.absent))
        message = f"no column is called {absent}, which data.columns names; the file has {names}"
        fix = "correct data.columns; files with other names need a folder of their own"
        return (Finding("error", "mapped-column-missing", message, fix, file),)
    if columns.missing:
        fix = "name it: " + " ".join(f"data.columns.{name}=NAME" for name in columns.missing)
        if columns.missing == REQUIRED:
            fix = "begin the file with a line of names such as Date,Open,High,Low,Close,Volume, or remove it"
        message = f"no column for {', '.join(columns.missing)}; the file has {names}"
        found.append(Finding("error", "column-missing", message, fix, file))
    elif twice := _repeated_prices(table.names, columns.index):
        message = f"several columns are called {twice[0]!r}, {twice[1]!r}, ...: symbols side by side"
        fix = "export one symbol per file, or with a line of tickers below the line of names"
        found.append(Finding("error", "columns-repeated", message, fix, file))
    elif columns.close_among:
        first, *others = columns.close_among
        message = f"the close could be {', '.join(map(repr, columns.close_among))}; {first!r} was taken"
        fix = f"if that is wrong: data.columns.close={others[0]!r}"
        found.append(Finding("warning", "several-closes", message, fix, file))
    return tuple(found)


def with_volume(file: str, table: Table, index: Index) -> tuple[Index, tuple[Finding, ...]]:
    """The index without an empty volume column, and a warning where there is no volume."""
    what = "no volume column"
    if "volume" in index:
        if not is_empty(table.column(index["volume"])):
            return index, ()
        what = "the volume column is empty"
    without = {name: at for name, at in index.items() if name != "volume"}
    return without, (no_volume(file, "", what, table, index),)


def no_volume(file: str, symbol: str, what: str, table: Table, index: Index) -> Finding:
    """A warning that volume is 0, with the other columns that could hold it."""
    used = set(index.values())
    others = [
        name
        for at, name in enumerate(table.names)
        if at not in used and "vol" in plain(name) and not is_empty(table.column(at))
    ]
    mapping = " or ".join(f"data.columns.volume={_argument(name)}" for name in others[:3])
    fix = f"name it: {mapping or 'data.columns.volume=NAME'}; for an index there is nothing to do"
    return Finding("warning", "no-volume", f"{what}; volume is taken as 0", fix, file, symbol)


def _argument(name: str) -> str:
    """A column name as a shell and Hydra take it; punctuation around it does not matter."""
    return shlex.quote(name.strip("<>"))


def equity_only(file: str, table: Table, index: Index) -> tuple[Table, tuple[Finding, ...]]:
    """Keeps the series EQ of an Indian export, on days without it BE, else BZ (trade-for-trade segments)."""
    if "series" not in index:
        return table, ()
    rank = table.column(index["series"]).cast(pl.String).str.strip_chars().str.to_uppercase().replace_strict(
        _SERIES, default=None, return_dtype=pl.Int8
    )  # fmt: skip
    if rank.null_count() == len(rank):
        return table, ()
    keys = [
        table.column(index[name]).cast(pl.String).alias(name)
        for name in ("symbol", "date", "time")
        if name in index
    ]
    ranks = pl.DataFrame([rank.alias("rank"), *keys])
    kept = ranks.select(pl.col("rank") == pl.col("rank").min().over([key.name for key in keys]))["rank"]
    kept = kept.fill_null(False)
    others = int((~kept).sum())
    if not others:
        return table, ()
    message = (
        f"{others} of {len(kept)} rows left out: not of the equity series EQ, or BE and BZ on days without"
    )
    finding = Finding("drop", "other-series", message, "nothing to do", file, rows=others)
    return replace(table, frame=table.frame.filter(kept)), (finding,)


def mixed_symbols(
    file: str, table: Table, index: Index, time: NDArray[np.datetime64], close: NDArray[np.float64]
) -> tuple[Finding, ...]:
    """Whether an unused column distinguishes several symbols that would be read as one.

    An error where rows of different values share dates, or follow each other with a break in time or price;
    a warning where they follow each other in time. Files that name their symbols are not checked.
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
        return (Finding("error" if broken else "warning", "symbol-column", message, fix, file),)
    return ()


def without_counts(names: Sequence[str]) -> Names:
    """Names without the .1, .2 that pandas appends to repeated ones."""
    bases = [re.sub(r"\.\d+$", "", name) for name in names]
    return tuple(base if base in names else name for base, name in zip(bases, names, strict=True))


def _repeated_prices(names: tuple[str, ...], index: Index) -> list[str]:
    """The repeated column names of the four prices, where all four repeat."""
    plains = [plain(name) for name in without_counts(names)]
    twice = [names[index[price]] for price in PRICES if plains.count(plain(names[index[price]])) > 1]
    return twice if len(twice) == len(PRICES) else []


def _labels(table: Table, index: Index) -> Iterator[tuple[str, NDArray[np.int64], list[str]]]:
    """Unused columns of few distinct values: name, each row's index (N,) into the values, the values."""
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
    """Whether time runs backwards where one value follows another."""
    steps = np.sign(np.diff(time).astype(np.int64))
    return bool((steps[np.diff(code) != 0] != np.sign(np.median(steps))).any())


def _jumps(code: NDArray[np.int64], close: NDArray[np.float64]) -> bool:
    """Whether the close moves by more than 40% where one value follows another."""
    with np.errstate(all="ignore"):
        move = np.abs(np.diff(np.log(close)))
    return bool((move[np.diff(code) != 0] > np.log(SPLIT_MOVE)).any())
