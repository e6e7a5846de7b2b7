"""Parquet files: bounds checked in the footer before anything is decoded, and time zones as written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import polars as pl

from stockenh.data.findings import quoted
from stockenh.data.readers.raw import MAX_COLUMNS, NoTableError, too_large, too_wide

MAGIC: Final = b"PAR1"
# Bars have noise, so they don't shrink below these: more rows or bytes come from a constant column.
_MOST_ROWS: Final = 2_000_000
_BYTES_PER_ROW: Final = 16
_MOST_UNPACKED: Final = 256 << 20
_UNPACKING: Final = 8
_MOST_FOOTER: Final = 8 << 20
_OFFSET: Final = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?(?::?\d{2})?")
_NO_ZONE_CHECK: Final = "POLARS_IGNORE_TIMEZONE_PARSE_ERROR"
_BROKEN: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


def read_parquet(data: bytes) -> tuple[pl.DataFrame, dict[int, str]]:
    """A file's cells, and the time zones of its columns by position, whose times become wall-clock times.

    Raises NoTableError where it is no Parquet file, or would need far more memory than its bars.
    """
    try:
        _check_size(data)
        with _quiet_parser():
            frame = pl.read_parquet(data)
    except _BROKEN as error:
        message = f"not a Parquet file: {quoted(str(error))}"
        raise NoTableError("unreadable-file", message, "save it again as Parquet or CSV") from None
    zones = {}
    for at, (name, dtype) in enumerate(frame.schema.items()):
        if isinstance(dtype, pl.Datetime) and dtype.time_zone:
            zones[at] = dtype.time_zone
            frame = frame.with_columns(_wall_clock(frame[name], dtype.time_zone))
    return frame, zones


@contextmanager
def _quiet_parser() -> Iterator[None]:
    """Keeps the parser's own crash reports off the terminal, and lets it read zones that it does not know.

    The parser is not Python code: it writes to the descriptor of standard error, and pandas' +05:30 is a
    crash. Each file's error is reported as a finding instead.
    """
    checked = os.environ.get(_NO_ZONE_CHECK)
    os.environ[_NO_ZONE_CHECK] = "1"
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        kept = -1  # standard error is closed
    try:
        if kept >= 0:
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 2)
            os.close(sink)
        yield
    finally:
        if kept >= 0:
            os.dup2(kept, 2)
            os.close(kept)
        if checked is None:
            del os.environ[_NO_ZONE_CHECK]
        else:
            os.environ[_NO_ZONE_CHECK] = checked


def _wall_clock(column: pl.Series, zone: str) -> pl.Series:
    """Times (N,) as a clock in their zone shows them; text that is no date where nobody knows the zone."""
    assert isinstance(column.dtype, pl.Datetime)
    utc = column.to_physical().cast(pl.Datetime(column.dtype.time_unit))
    if offset := _OFFSET.fullmatch(zone):
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        return utc.dt.offset_by(f"{offset[1]}{minutes}m".removeprefix("+"))
    try:
        return utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None)
    except pl.exceptions.PolarsError:
        return "UTC " + utc.dt.to_string("%Y-%m-%d %H:%M") + f", unknown time zone {quoted(zone, 40)}"


def _check_size(data: bytes) -> None:
    """Raises NoTableError where the footer declares too much, ValueError where there is none."""
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != MAGIC or size + 12 > len(data):
        raise ValueError("the file's end is missing")
    footer = _Thrift(data[-8 - size : -8])
    if size > _MOST_FOOTER or footer.columns() > MAX_COLUMNS:
        columns = footer.columns()
        if columns > MAX_COLUMNS:
            raise too_wide(columns)
        raise too_large(f"a footer of {size >> 20} MiB", "save it again with fewer row groups")
    fields = footer.struct()
    rows = fields.get(3, 0)
    groups = fields.get(4, [])
    unpacked = sum(group.get(2, 0) for group in groups)
    most_rows = max(_MOST_ROWS, len(data) // _BYTES_PER_ROW)
    most_bytes = max(_MOST_UNPACKED, _UNPACKING * len(data))
    fix = "split it, one file per symbol or year"
    if max(rows, sum(group.get(3, 0) for group in groups)) > most_rows:
        raise too_large(f"{rows:,} rows in {len(data):,} bytes, and at most {most_rows:,} are read", fix)
    if max(unpacked, 8 * rows * footer.columns()) > 4 * most_bytes or unpacked > most_bytes:
        raise too_large(f"unpacked it has more than {most_bytes >> 20} MiB", fix)


class _Thrift:
    """Reads Thrift's compact protocol, in which Parquet writes its footer (FileMetaData of parquet.thrift).

    A struct becomes {field number: value}; text stays bytes. Raises ValueError where the bytes are none.
    """

    _DEEPEST: Final = 16

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def columns(self) -> int:
        """Columns that the footer declares: the length of its second field less the root."""
        start, self._at = self._at, 0
        try:
            fields = self._fields()
            for number, kind in fields:
                if number == 2 and kind == 9:
                    return self._list_head()[0] - 1
                self._value(kind, 0)
            return 0
        finally:
            self._at = start

    def struct(self, depth: int = 0) -> dict[int, Any]:
        return {number: self._value(kind, depth) for number, kind in self._fields()}

    def _fields(self) -> Iterator[tuple[int, int]]:
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            yield number, head & 15

    def _value(self, kind: int, depth: int) -> Any:
        if depth > self._DEEPEST:
            raise ValueError("the footer is nested too deeply")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return self._take(8)
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            size, inner = self._list_head()
            if size > len(self._data):
                raise ValueError("the footer is damaged")
            # booleans take a byte each inside a list
            return [self._value(3 if inner < 3 else inner, depth + 1) for _ in range(size)]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("the footer is damaged")

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        return (self._varint() if head >> 4 == 15 else head >> 4), head & 15

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise ValueError("the footer is damaged")
        self._at += size
        return part

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("the footer is damaged")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
