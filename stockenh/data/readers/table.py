"""From a file to a table of cells, and the symbol in a file's name."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Final

import polars as pl

from stockenh.data.findings import Finding, quoted
from stockenh.data.readers.columns import Table, match_columns, stack_tickers

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet")
_RANGE: Final = r"\d{2}-\d{2}-\d{4}-to-\d{2}-\d{2}-\d{4}"
_NSE: Final = re.compile(rf"^Quote-Equity-(.+)-[A-Z][A-Z0-9]-{_RANGE}", re.IGNORECASE)
_NSE_ARCHIVE: Final = re.compile(rf"^{_RANGE}(.+?)(?:EQ|ALL)N?(?: ?\(\d+\))?$", re.IGNORECASE)
_STOOQ: Final = re.compile(r"^([a-z0-9^.&-]+?)(?:_([a-z]{2}))?_d$")


def display_name(path: Path) -> str:
    """A file's name as text; bytes that are not UTF-8 are read as Latin-1."""
    raw = os.fsencode(path.name)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def symbol_of(path: Path) -> str:
    """The symbol in a file's name: BRK.B.csv is BRK.B.

    Stooq's aapl.us.txt and aapl_us_d.csv are AAPL, its cdr_d.csv is CDR and vod_uk_d.csv VOD.UK; the
    exchange's Quote-Equity-SBIN-EQ-01-01-2022-to-31-12-2022.csv is SBIN.
    """
    name = stem = display_name(path)
    for suffix in (".gz", *SUFFIXES):
        if stem.lower().endswith(suffix) and len(stem) > len(suffix):
            stem = stem[: -len(suffix)]
    if name.lower().endswith(".txt"):
        return stem.upper().removesuffix(".US")
    if found := _NSE.match(stem) or _NSE_ARCHIVE.match(stem):
        return found[1]
    if found := _STOOQ.match(stem):
        market = "" if found[2] in (None, "us") else f".{found[2]}"
        return f"{found[1]}{market}".upper()
    for prefix in ("daily_adjusted_", "daily_"):
        if stem.startswith(prefix) and len(stem) > len(prefix):
            return stem.removeprefix(prefix)
    return stem


_WORKBOOK: Final = ("an Excel workbook", "save its sheet as CSV")
# The first bytes of other kinds of files, what they are, and the fix.
_KINDS: Final = {
    b"\xd0\xcf\x11\xe0": _WORKBOOK,
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
_HEAD: Final = 4096
_NOT_BARS: Final = re.compile(
    r"^\s*(?:[{\[]|<(?:!doctype|\?xml|html|head|body|title|script|div|p|h1)\b)", re.IGNORECASE
)
_QUOTED_CELL: Final = re.compile(rb'"[^"]*"')
# A panic of the parser is not a subclass of Exception, but garbage in a file must not end the program.
_POLARS_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class NoTableError(Exception):
    """A file holds no table. Arguments: the rule that says so, what was seen, and the fix."""


def load_table(path: Path) -> tuple[Table | None, tuple[Finding, ...]]:
    """Reads a file's cells. Returns no table and an error finding where it holds none."""
    name = display_name(path)
    try:
        data = _bytes(path)
        is_parquet = path.suffix.lower() == ".parquet" or data.startswith(_PARQUET)
        table, found = _parquet(data) if is_parquet else _text(data)
    except NoTableError as error:
        rule, message, fix = error.args
        return None, (Finding("error", rule, message, fix, name),)
    return table, tuple(replace(finding, file=name) for finding in found)


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
                kind, fix = _WORKBOOK
            raise NoTableError("unreadable-file", f"not bars but {kind}", fix)
    return data


def _parquet(data: bytes) -> tuple[Table, tuple[Finding, ...]]:
    try:
        frame = pl.read_parquet(data)
    except _POLARS_ERRORS as error:
        message = f"not a Parquet file: {quoted(str(error))}"
        raise NoTableError("unreadable-file", message, "save it again as Parquet or CSV") from None
    return _with_rows(Table(tuple(frame.columns), frame), ""), ()


def _text(data: bytes) -> tuple[Table, tuple[Finding, ...]]:
    frame, separator, head, found = _read_text(data)
    if (wide := stack_tickers(frame)) is not None:
        return _with_rows(Table(*wide, separator), head), found
    names = tuple((cell or "").strip() for cell in frame.row(0))
    return _with_rows(Table(names, frame.slice(1), separator), head), found


def _with_rows(table: Table, head: str) -> Table:
    if table.frame.height:
        return table
    if head and not match_columns(table.names, {}).index.keys() - {"date", "symbol"}:
        # "404: Not Found, try later" splits at its comma, but no part of it is a column name
        fix = "the download failed: fetch this file again"
        raise NoTableError("error-text", f"not bars but a line of text: {quoted(head)}", fix)
    raise NoTableError("empty-file", "a header and no rows", "download it again or remove it")


def _read_text(data: bytes) -> tuple[pl.DataFrame, str, str, tuple[Finding, ...]]:
    """The cells with the header as their first row, the separator, the start of the text, and findings.

    Raises NoTableError where the text is not a table.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # line ends of old Macs
    head = data[:_HEAD].decode("utf-8", errors="replace")
    if "\0" in head:
        raise NoTableError("unreadable-file", "not text but binary data", "save it as CSV or Parquet")
    if _NOT_BARS.match(head):
        message = f"not bars but a server's answer: {quoted(head)}"
        fix = "the download failed (rate limit, wrong key or symbol): fetch this file again"
        raise NoTableError("error-text", message, fix)
    separator = _separator(head)
    data, stray = _without_stray_quotes(data)
    data, surplus = _without_surplus(data, separator)
    found = stray + surplus
    try:
        frame = _cells(data, separator, "utf8")
    except _POLARS_ERRORS:
        frame = _cells_of_bad_text(data, separator, head)
        message = "some bytes are not UTF-8 text and were read as '\ufffd'"
        found += (Finding("warning", "bad-bytes", message, "save the file as UTF-8"),)
    if frame.width < 2:
        fix = "fetch this file again, or save it as CSV with a header line"
        raise NoTableError("error-text", f"not a table but text: {quoted(head)}", fix)
    return frame, separator, head, found


def _without_stray_quotes(data: bytes) -> tuple[bytes, tuple[Finding, ...]]:
    """Leaves out lines with an odd number of quotes: an open quote swallows everything up to the next one."""
    if b'"' not in data:
        return data, ()
    lines = data.splitlines(keepends=True)
    kept = [line for line in lines if line.count(b'"') % 2 == 0]
    stray = len(lines) - len(kept)
    if not stray:
        return data, ()
    message = f"{stray} of {len(lines)} lines have a quotation mark that is not closed on the line"
    fix = "remove the mark, or close it"
    if 2 * stray > len(lines) or lines[0].count(b'"') % 2:
        raise NoTableError("unreadable-file", f"not a table: {message}", fix)
    return b"".join(kept), (Finding("drop", "stray-quote", message, fix, rows=stray),)


def _without_surplus(data: bytes, separator: str) -> tuple[bytes, tuple[Finding, ...]]:
    """Leaves out lines with more cells than the header has names: 1,769 without quotes is two cells."""
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
        raise NoTableError("too-many-cells", message, fix)
    return head + b"".join(kept), (Finding("drop", "too-many-cells", message, fix, rows=surplus),)


def _has_surplus(line: bytes, mark: bytes, width: int) -> bool:
    if line.count(mark) < width:
        return False
    return any(cell.strip() for cell in _QUOTED_CELL.sub(b"x", line).split(mark)[width:])


def _cells(data: bytes, separator: str, encoding: str) -> pl.DataFrame:
    # Every cell stays text: type inference would turn the symbol TRUE into a boolean and NAN into null, and
    # fail on a column whose thousands separators start in row 900.
    return pl.read_csv(
        data, has_header=False, infer_schema=False, separator=separator, encoding=encoding,
        truncate_ragged_lines=True,
    )  # fmt: skip


def _cells_of_bad_text(data: bytes, separator: str, head: str) -> pl.DataFrame:
    try:
        return _cells(data, separator, "utf8-lossy")
    except _POLARS_ERRORS as error:
        message = f"not a table: {quoted(str(error))} in {quoted(head)}"
        fix = "save it as CSV in UTF-8; look for an unclosed quotation mark"
        raise NoTableError("unreadable-file", message, fix) from None


def _separator(head: str) -> str:
    lines = head.splitlines()
    return max(",;\t|", key=lines[0].count) if lines else ","
