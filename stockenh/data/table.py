"""From a file to a table of columns, before anything is known about what they mean."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from stockenh.data.columns import match_columns
from stockenh.data.findings import Finding, quoted
from stockenh.data.names import shown
from stockenh.data.text import POLARS_FAILS, NoTableError, TextFinding, read_text
from stockenh.data.wide import stacked

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
