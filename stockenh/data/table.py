"""From a file to a table of columns, before anything is known about what they mean."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from stockenh.data.columns import plain
from stockenh.data.findings import Finding, quoted

_SUFFIXES: Final = (".csv", ".csv.gz", ".txt", ".parquet")
_HEAD: Final = 4096
_NOT_BARS: Final = re.compile(
    r"^\s*(?:[{\[]|<(?:!doctype|\?xml|html|head|body|title|script|div|p|h1)\b)", re.IGNORECASE
)
_QUOTED_CELL: Final = re.compile(rb'"[^"]*"')
# A panic of the parser is no Exception, but garbage in a file must not end the program.
_POLARS_FAILS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


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
        return pl.Series([None if cell is None else str(cell) for cell in cells], dtype=pl.String)


class _NoTableError(Exception):
    """A file holds no table: the rule that says so, what was seen, and the fix."""

    def __init__(self, rule: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.rule, self.message, self.fix = rule, message, fix


def is_table_file(path: Path) -> bool:
    """Whether a file's name says CSV, text or Parquet; hidden files don't count."""
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(_SUFFIXES)


def load_table(path: Path) -> tuple[Table | None, tuple[Finding, ...]]:
    """Reads a file's cells; no table and an error finding where it holds none."""
    try:
        data = _bytes(path)
        table, found = _parquet(data) if path.suffix.lower() == ".parquet" else _text(path, data)
        if not table.frame.height:
            raise _NoTableError("empty-file", "a header and no rows", "download it again or remove it")
    except _NoTableError as error:
        return None, (Finding("error", error.rule, path.name, "", "", 0, error.message, error.fix),)
    return table, found


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise _NoTableError("unreadable-file", f"can't be read: {error}", "download it again") from None
    if not data.strip():
        raise _NoTableError("empty-file", "the file is empty", "download it again or remove it")
    return data


def _parquet(data: bytes) -> tuple[Table, tuple[Finding, ...]]:
    try:
        frame = pl.read_parquet(data)
    except _POLARS_FAILS as error:
        message = f"not a Parquet file: {quoted(str(error))}"
        raise _NoTableError("unreadable-file", message, "save it again as Parquet or CSV") from None
    return Table(tuple(frame.columns), frame), ()


def _text(path: Path, data: bytes) -> tuple[Table, tuple[Finding, ...]]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    head = data[:_HEAD].decode("utf-8", errors="replace")
    if _NOT_BARS.match(head):
        message = f"not bars but a server's answer: {quoted(head)}"
        fix = "the download failed (rate limit, wrong key or symbol): fetch this file again"
        raise _NoTableError("error-text", message, fix)
    separator = _separator(head)
    data, found = _without_surplus(data, separator, path)
    try:
        frame = _cells(data, separator, "utf8")
    except _POLARS_FAILS:
        frame = _cells_of_bad_text(data, separator, head)
        message = "some bytes are not UTF-8 text and were read as '\ufffd'"
        found += (Finding("warning", "bad-bytes", path.name, "", "", 0, message, "save the file as UTF-8"),)
    if frame.width < 2:
        fix = "fetch this file again, or save it as CSV with a header line"
        raise _NoTableError("error-text", f"not a table but text: {quoted(head)}", fix)
    return _header(frame, separator), found


def _without_surplus(data: bytes, separator: str, path: Path) -> tuple[bytes, tuple[Finding, ...]]:
    """Leaves out lines with more cells than the header has names: 1,769 without quotes is two."""
    mark = separator.encode()
    head, *lines = data.splitlines(keepends=True) or [b""]
    width = _QUOTED_CELL.sub(b"", head).count(mark) + 1
    kept = [line for line in lines if not _has_surplus(line, mark, width)]
    surplus = len(lines) - len(kept)
    if not surplus:
        return data, ()
    message = f"{surplus} of {len(lines)} lines have more cells than the header has names"
    fix = "put quotes around numbers that hold the separator, such as 1,769"
    if 2 * surplus > len(lines):
        raise _NoTableError("too-many-cells", message, fix)
    found = Finding("drop", "too-many-cells", path.name, "", "", surplus, message, fix)
    return head + b"".join(kept), (found,)


def _has_surplus(line: bytes, mark: bytes, width: int) -> bool:
    if line.count(mark) < width:
        return False
    return any(cell.strip() for cell in _QUOTED_CELL.sub(b"x", line).split(mark)[width:])


def _cells(data: bytes, separator: str, encoding: str) -> pl.DataFrame:
    # Every cell stays text here: a guessed type would turn the symbol TRUE into a boolean, NAN into nothing,
    # and a column whose thousands separators begin in row 900 into an error.
    return pl.read_csv(
        data,
        has_header=False,
        infer_schema=False,
        separator=separator,
        encoding=encoding,
        truncate_ragged_lines=True,
    )


def _cells_of_bad_text(data: bytes, separator: str, head: str) -> pl.DataFrame:
    try:
        return _cells(data, separator, "utf8-lossy")
    except _POLARS_FAILS as error:
        message = f"not a table: {quoted(str(error))} in {quoted(head)}"
        fix = "save it as CSV in UTF-8; look for an unclosed quotation mark"
        raise _NoTableError("unreadable-file", message, fix) from None


def _separator(head: str) -> str:
    lines = head.splitlines()
    return max(",;\t|", key=lines[0].count) if lines else ","


def _header(frame: pl.DataFrame, separator: str) -> Table:
    """Takes the names off the top: one row, or the three rows of yfinance."""
    rows = [_names(frame.row(i)) for i in range(min(3, frame.height))]
    first = [plain(row[0]) for row in rows]
    if len(first) == 3 and set(first[:2]) == {"price", "ticker"} and first[2] in ("date", "datetime"):
        fields, tickers = (rows[0], rows[1]) if first[0] == "price" else (rows[1], rows[0])
        return _unstack(frame.slice(3), fields, tickers, separator)
    return Table(rows[0], frame.slice(1), separator)


def _names(row: tuple[str | None, ...]) -> tuple[str, ...]:
    return tuple((cell or "").strip() for cell in row)


def _unstack(body: pl.DataFrame, fields: tuple[str, ...], tickers: tuple[str, ...], separator: str) -> Table:
    """Puts the tickers that yfinance lays side by side below each other."""
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
    return Table(names, pl.concat(parts), separator)
