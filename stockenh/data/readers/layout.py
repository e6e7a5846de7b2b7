"""From a file to a table of columns, before anything is known about what they mean."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data.findings import Finding, Level, quoted
from stockenh.data.readers.clean import FEW
from stockenh.data.readers.columns import REQUIRED, Columns, match_columns, plain, stacked
from stockenh.data.readers.numbers import says_nothing
from stockenh.data.readers.series_rules import SPLIT_MOVE
from stockenh.data.readers.text import POLARS_FAILS, NoTableError, TextFinding, read_text, shown

_DATA_SHEET: Final = ("an Excel workbook", "save its sheet as CSV")
# What files of other kinds begin with, what they are, and what to do.
_KINDS: Final = {
    b"\xd0\xcf\x11\xe0": _DATA_SHEET,
    b"PK\x03\x04": ("a ZIP archive", "unpack it, and give the folder"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it, and give the folder"),
    b"Rar!": ("a RAR archive", "unpack it, and give the folder"),
    b"BZh": ("compressed by bzip2", "unpack it"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it"),
    b"%PDF": ("a PDF", "fetch the bars as CSV"),
    b"ARROW1": ("an Arrow file", "save it as Parquet or CSV"),
    b"SQLite format 3": ("a SQLite database", "save the table as Parquet or CSV"),
}
_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"


@dataclass(frozen=True)
class Table:
    """The cells of a file: `frame` has one column per name, in order."""

    names: tuple[str, ...]
    frame: pl.DataFrame
    separator: str = ","

    def column(self, position: int) -> pl.Series:
        """The cells below one name: numbers, dates or timestamps where the file had such types, else text."""
        cells = self.frame.to_series(position)
        dtype = cells.dtype
        if dtype.is_numeric() or dtype in (pl.String, pl.Date, pl.Datetime):
            return cells
        if dtype in (pl.Categorical, pl.Enum, pl.Boolean):
            return cells.cast(pl.String)
        texts = [c.decode("utf-8", "replace") if isinstance(c, bytes) else c for c in cells]
        return pl.Series([None if text is None else str(text) for text in texts], dtype=pl.String)


def load_table(path: Path) -> tuple[Table | None, tuple[Finding, ...]]:
    """Reads a file's cells; no table and an error finding where it holds none."""
    try:
        data = _bytes(path)
        table, found = _parquet(data) if _is_parquet(path, data) else _text(data)
    except NoTableError as error:
        return None, (Finding("error", error.rule, shown(path), "", "", 0, error.message, error.fix),)
    return table, tuple(
        Finding(f.level, f.rule, shown(path), "", "", f.rows, f.message, f.fix) for f in found
    )


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz") or data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise NoTableError("unreadable-file", f"can't be read: {error}", "download it again") from None
    if not data.strip():
        raise NoTableError("empty-file", "the file is empty", "download it again or remove it")
    for begin, (kind, fix) in _KINDS.items():
        if data.startswith(begin):
            if b"xl/" in data and begin == b"PK\x03\x04":
                kind, fix = _DATA_SHEET
            raise NoTableError("unreadable-file", f"not bars but {kind}", fix)
    return data


def _is_parquet(path: Path, data: bytes) -> bool:
    return path.suffix.lower() == ".parquet" or data.startswith(_PARQUET)


def _parquet(data: bytes) -> tuple[Table, tuple[TextFinding, ...]]:
    try:
        frame = pl.read_parquet(data)
    except POLARS_FAILS as error:
        message = f"not a Parquet file: {quoted(str(error))}"
        raise NoTableError("unreadable-file", message, "save it again as Parquet or CSV") from None
    return _with_rows(Table(tuple(frame.columns), frame), ""), ()


def _text(data: bytes) -> tuple[Table, tuple[TextFinding, ...]]:
    frame, separator, head, found = read_text(data)
    if (wide := stacked(frame)) is not None:
        return _with_rows(Table(*wide, separator), head), found
    names = tuple((cell or "").strip() for cell in frame.row(0))
    return _with_rows(Table(names, frame.slice(1), separator), head), found


def _with_rows(table: Table, head: str) -> Table:
    if table.frame.height:
        return table
    if head and not match_columns(table.names, {}).index.keys() - {"date", "symbol"}:
        # "404: Not Found, try later" splits at its comma, but no part of it is a column's name
        fix = "the download failed: fetch this file again"
        raise NoTableError("error-text", f"not bars but a line of text: {quoted(head)}", fix)
    raise NoTableError("empty-file", "a header and no rows", "download it again or remove it")


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
