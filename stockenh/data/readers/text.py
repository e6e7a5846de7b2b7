"""File names: the symbol in them, and how they are shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from stockenh.data.findings import Level, quoted

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet")
_RANGE: Final = r"\d{2}-\d{2}-\d{4}-to-\d{2}-\d{2}-\d{4}"
_NSE: Final = re.compile(rf"^Quote-Equity-(.+)-[A-Z][A-Z0-9]-{_RANGE}", re.IGNORECASE)
_NSE_ARCHIVE: Final = re.compile(rf"^{_RANGE}(.+?)(?:EQ|ALL)N?(?: ?\(\d+\))?$", re.IGNORECASE)
_STOOQ: Final = re.compile(r"^([a-z0-9^.&-]+?)(?:_([a-z]{2}))?_d$")


def shown(path: Path) -> str:
    """A file's name as text: bytes that are no UTF-8 are read as Latin-1."""
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
    name = stem = shown(path)
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


_HEAD: Final = 4096
_NOT_BARS: Final = re.compile(
    r"^\s*(?:[{\[]|<(?:!doctype|\?xml|html|head|body|title|script|div|p|h1)\b)", re.IGNORECASE
)
_QUOTED_CELL: Final = re.compile(rb'"[^"]*"')
# A panic of the parser is no Exception, but garbage in a file must not end the program.
POLARS_FAILS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class NoTableError(Exception):
    """A file holds no table: the rule that says so, what was seen, and the fix."""

    def __init__(self, rule: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.rule, self.message, self.fix = rule, message, fix


@dataclass(frozen=True)
class TextFinding:
    """A finding about a file whose name is not known here."""

    level: Level
    rule: str
    rows: int
    message: str
    fix: str


def read_text(data: bytes) -> tuple[pl.DataFrame, str, str, tuple[TextFinding, ...]]:
    """The cells with the header as their first row, the separator, the text's beginning, and what was found.

    Raises NoTableError where the text is no table.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", errors="replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # as old Macs end their lines
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
    except POLARS_FAILS:
        frame = _cells_of_bad_text(data, separator, head)
        message = "some bytes are not UTF-8 text and were read as '\ufffd'"
        found += (TextFinding("warning", "bad-bytes", 0, message, "save the file as UTF-8"),)
    if frame.width < 2:
        fix = "fetch this file again, or save it as CSV with a header line"
        raise NoTableError("error-text", f"not a table but text: {quoted(head)}", fix)
    return frame, separator, head, found


def _without_stray_quotes(data: bytes) -> tuple[bytes, tuple[TextFinding, ...]]:
    """Leaves out lines with an odd number of quotes: such a one makes a single cell of all up to the next."""
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
    return b"".join(kept), (TextFinding("drop", "stray-quote", stray, message, fix),)


def _without_surplus(data: bytes, separator: str) -> tuple[bytes, tuple[TextFinding, ...]]:
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
        raise NoTableError("too-many-cells", message, fix)
    return head + b"".join(kept), (TextFinding("drop", "too-many-cells", surplus, message, fix),)


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
    except POLARS_FAILS as error:
        message = f"not a table: {quoted(str(error))} in {quoted(head)}"
        fix = "save it as CSV in UTF-8; look for an unclosed quotation mark"
        raise NoTableError("unreadable-file", message, fix) from None


def _separator(head: str) -> str:
    lines = head.splitlines()
    return max(",;\t|", key=lines[0].count) if lines else ","
