"""CSV and other separated text: encoding, the line of names, and the lines that are no rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import polars as pl

from stockenh.data.findings import Finding, quoted
from stockenh.data.readers.columns import Names, match_columns
from stockenh.data.readers.raw import MAX_COLUMNS, NoTableError, too_large, too_wide
from stockenh.data.readers.wide import are_levels, split_names

# A line of a bar has more bytes than this, and a cell more than that; other files only cost memory.
_MOST_LINES, _BYTES_PER_LINE = 1_000_000, 16
_MOST_CELLS, _BYTES_PER_CELL = 10_000_000, 4
_MOST_ABOVE: Final = 50  # lines above the line of names
_LONGEST_NAMES: Final = 1 << 20  # bytes of the line of names
_MOST_LOOKED_AT: Final = 50_000  # cells, until a line of names is found
_HEAD: Final = 4096
_NOT_BARS: Final = re.compile(
    r"^\s*(?:[{\[]|<(?:!doctype|\?xml|html|head|body|title|script|div|p|h1)\b)", re.IGNORECASE
)
_EXCEL: Final = re.compile(rb'^"?sep=([,;|\t:^~ ])"?[ ;,\t]*\r?\n', re.IGNORECASE)
_QUOTED_CELL: Final = re.compile(rb'"[^"]*"')
# A panic of the parser is not a subclass of Exception, but garbage in a file must not end the program.
_POLARS_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
_SEPARATORS: Final = ",;\t|"


def read_text(data: bytes, mapping: Mapping[str, str]) -> tuple[pl.DataFrame, str, str, tuple[Finding, ...]]:
    """The cells with the names as their first row, the separator, the start of the text, and findings.

    `mapping` (canonical -> own column name) helps to recognise the line of names. Raises NoTableError where
    the text is not a table.
    """
    data = _decoded(data)
    stated = ""
    if found := _EXCEL.match(data):
        stated, data = found[1].decode("latin-1"), data[found.end() :].lstrip(b"\r\n")
    head = data[:_HEAD].decode("utf-8", errors="replace")
    if "\0" in head:
        raise NoTableError("unreadable-file", "not text but binary data", "save it as CSV or Parquet")
    if not data.strip():
        raise NoTableError("empty-file", "the file is empty", "download it again or remove it")
    names = _names_line(data, stated, mapping)
    if names is None and _NOT_BARS.match(head):
        message = f"not bars but a server's answer: {quoted(head)}"
        fix = "the download failed (rate limit, wrong key or symbol): fetch this file again"
        raise NoTableError("error-text", message, fix)
    data, above = _without_lines_above(data, names or 0)
    first = data[: data.find(b"\n") + 1] or data
    separator = stated or _separator(first[:_HEAD].decode("utf-8", errors="replace"))
    _check_size(data, first, separator.encode())
    data, stray = _without_stray_quotes(data)
    data, surplus = _without_surplus(data, separator)
    findings = above + stray + surplus
    try:
        frame = _cells(data, separator, "utf8")
    except _POLARS_ERRORS:
        frame = _cells_of_bad_text(data, separator, head)
        message = "some bytes are not UTF-8 text and were read as '\ufffd'"
        findings += (Finding("warning", "bad-bytes", message, "save the file as UTF-8"),)
    if frame.width < 2:
        fix = "fetch this file again, or save it as CSV with a header line"
        raise NoTableError("error-text", f"not a table but text: {quoted(head)}", fix)
    return frame, separator, head, findings


def _decoded(data: bytes) -> bytes:
    """UTF-8 text with the line ends of Unix or Windows, without a byte order mark."""
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        data = data.decode("utf-32", errors="replace").encode()
    elif data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", errors="replace").encode()
    elif data[1:200:2] and not data[1:200:2].strip(b"\0"):
        data = data.decode("utf-16-le", errors="replace").encode()
    elif data[:200:2] and not data[:200:2].strip(b"\0"):
        data = data.decode("utf-16-be", errors="replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # line ends of old Macs
    return data


def _names_line(data: bytes, stated: str, mapping: Mapping[str, str]) -> int | None:
    """The index of the line that names the columns among the first lines; None where none does.

    A line that names every part of a bar is preferred to one that lacks the date, which may have any name.
    """
    second: int | None = None
    before: Names = ()
    looked_at = 0
    for at, cells in enumerate(_first_cells(data, stated)):
        columns = match_columns(cells, mapping)
        begin = at - 1 if are_levels(cells, before) else at
        if not columns.missing or split_names(cells):
            return begin
        if second is None and columns.missing == ("date",):
            second = begin
        before = cells
        looked_at += len(cells)
        if looked_at > _MOST_LOOKED_AT:
            break
    return second


def _first_cells(data: bytes, stated: str) -> Iterator[Names]:
    """The cells of each of the first lines; a line too long to be one of names has none."""
    begin = 0
    for _ in range(_MOST_ABOVE + 1):
        end = data.find(b"\n", begin)
        line = data[begin : end if end >= 0 else len(data)]
        if len(line) > _LONGEST_NAMES:
            yield ()
        else:
            yield _split(line.decode("utf-8", errors="replace").rstrip("\r"), stated)
        if end < 0:
            return
        begin = end + 1


def _split(line: str, stated: str) -> Names:
    separator = stated or _separator(line)
    if line.count(separator) >= MAX_COLUMNS:
        return ()
    try:
        cells = next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return ()
    return tuple(cell.strip() for cell in cells)


def _without_lines_above(data: bytes, names: int) -> tuple[bytes, tuple[Finding, ...]]:
    if not names:
        return data, ()
    lines = data.split(b"\n", names)
    above = [text for line in lines[:names] if (text := line.decode("utf-8", errors="replace").strip())]
    if not above:
        return lines[names], ()
    count = f"{len(above)} lines" if len(above) > 1 else "a line"
    message = f"{count} above the line of names left out: {quoted(above[0])}"
    return lines[names], (Finding("drop", "lines-above", message, "nothing to do", rows=len(above)),)


def _check_size(data: bytes, first: bytes, mark: bytes) -> None:
    """Raises NoTableError where lines or cells are so many and short that they are no bars."""
    width = first.count(mark) + 1
    if width > MAX_COLUMNS:
        raise too_wide(width)
    lines = data.count(b"\n") + 1
    fix = "remove empty lines and columns, or split the file, one per symbol or year"
    if lines > max(_MOST_LINES, len(data) // _BYTES_PER_LINE):
        raise too_large(f"{lines:,} lines in {len(data):,} bytes are too short for bars", fix)
    cells = max(width * lines, data.count(mark))
    if cells > max(_MOST_CELLS, len(data) // _BYTES_PER_CELL):
        raise too_large(f"{cells:,} cells in {len(data):,} bytes are too short for bars", fix)


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
    """Leaves out lines with more cells than there are names: 1,769 without quotes is two cells."""
    mark = separator.encode()
    end = data.find(b"\n") + 1 or len(data)
    width = _QUOTED_CELL.sub(b"", data[:end]).count(mark) + 1
    if not _may_have_surplus(data, mark, width):
        return data, ()
    head, *lines = data.splitlines(keepends=True) or [b""]
    kept = [line for line in lines if not _has_surplus(line, mark, width)]
    surplus = len(lines) - len(kept)
    if not surplus:
        return data, ()
    message = f"{surplus} of {len(lines)} lines have more cells than line 1, {_shown(head)}, has names"
    fix = "put quotes around numbers that hold the separator, such as 1,769"
    if 2 * surplus > len(lines):
        fix = f"remove the lines above the line of names such as Date,Open,High,Low,Close,Volume, or {fix}"
        raise NoTableError("too-many-cells", message, fix)
    return head + b"".join(kept), (Finding("drop", "too-many-cells", message, fix, rows=surplus),)


def _shown(line: bytes) -> str:
    return quoted(line[:_HEAD].decode("utf-8", errors="replace"), 60)


def _may_have_surplus(data: bytes, mark: bytes, width: int) -> bool:
    """Whether any line has as many separators as there are names, quotes aside."""
    content = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero(content == mark[0])
    before = np.searchsorted(marks, np.flatnonzero(content == ord("\n")))
    counts = np.diff(before, prepend=0, append=len(marks))
    return bool((counts >= width).any())


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
    return max(_SEPARATORS, key=lines[0].count) if lines else ","
