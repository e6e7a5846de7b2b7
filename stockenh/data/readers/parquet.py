"""Parquet files: bounds checked in the footer before anything is decoded, and time zones as written."""

from __future__ import annotations

import base64
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import polars as pl

from stockenh.data.findings import quoted
from stockenh.data.readers.raw import MAX_COLUMNS, NoTableError, too_large, too_wide

MAGIC: Final = b"PAR1"
# Bars have noise, so they don't shrink below these: more rows or bytes come from a constant column.
_MOST_ROWS: Final = 1_000_000
_BYTES_PER_ROW: Final = 12
_MOST_UNPACKED: Final = 256 << 20
_UNPACKING: Final = 8
_MOST_FOOTER: Final = 8 << 20
_OFFSET: Final = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?(?::?\d{2})?")
_ARROW: Final = b"ARROW:schema"
_TIMESTAMP: Final = 10  # of the union Type in Schema.fbs
_CELL: Final = 8
_DEEPEST: Final = 16  # levels of nested columns, and of structures in the footer
_BROKEN: Final = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
)


def read_parquet(data: bytes) -> tuple[pl.DataFrame, dict[int, str]]:
    """A file's cells, and the time zones of its columns by position, whose times become wall-clock times.

    Raises NoTableError where it is no Parquet file, or would need far more memory than its bars.
    """
    try:
        footer = _footer(data)
        zones = _zones(footer)
        if not all(map(_is_known, zones.values())):
            # The parser crashes at pandas' +05:30. Without the Arrow schema it reads the same times as UTC.
            at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            data = data[:at] + data[at:].replace(_ARROW, _ARROW.lower())
        with _quiet_parser():
            frame = pl.read_parquet(data)
    except _BROKEN as error:
        message = f"not a Parquet file: {quoted(str(error))}"
        raise NoTableError("unreadable-file", message, "save it again as Parquet or CSV") from None
    found = {}
    for at, (name, dtype) in enumerate(frame.schema.items()):
        if isinstance(dtype, pl.Datetime) and dtype.time_zone:
            found[at] = zones.get(name, dtype.time_zone)
            frame = frame.with_columns(_wall_clock(frame[name], found[at]))
    return frame, found


@contextmanager
def _quiet_parser() -> Iterator[None]:
    """Keeps the parser's own crash reports off the terminal: each file's error is reported as a finding.

    The parser is not Python code, and writes to the descriptor of standard error.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _is_known(zone: str) -> bool:
    try:
        pl.Series([0]).cast(pl.Datetime("us", zone))
    except pl.exceptions.PolarsError:
        return False
    return not _OFFSET.fullmatch(zone)


def _wall_clock(column: pl.Series, zone: str) -> pl.Series:
    """Times (N,) as a clock in their zone shows them; text that is no date where nobody knows the zone."""
    utc = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if offset := _OFFSET.fullmatch(zone):
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        return utc.dt.offset_by(f"{offset[1]}{minutes}m".removeprefix("+"))
    if not _is_known(zone):
        text = f"unknown time zone {quoted(zone, 40)}, in UTC " + utc.dt.to_string("%Y-%m-%d %H:%M")
        return text.alias(column.name)
    return column.dt.convert_time_zone(zone).dt.replace_time_zone(None)


def _zones(footer: Mapping[int, Any]) -> dict[str, str]:
    """The time zone of each column that has one, from the Arrow schema that pandas and polars store."""
    stored = {pair.get(1): pair.get(2) for pair in footer.get(5, [])}
    schema = stored.get(_ARROW)
    if not schema:
        return {}
    try:
        return arrow_zones(base64.b64decode(schema))
    except (ValueError, IndexError, struct.error):
        return {}


def arrow_zones(message: bytes) -> dict[str, str]:
    """Name and time zone of the zoned columns in an Arrow schema message (Schema.fbs, a flatbuffer)."""
    start = 8 if message[:4] == b"\xff\xff\xff\xff" else 4

    def offset(at: int) -> int:
        return at + int(struct.unpack_from("<I", message, at)[0])

    def member(table: int, number: int) -> int | None:
        """Where a table's field is; None where it is absent."""
        vtable = table - struct.unpack_from("<i", message, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", message, vtable)[0]:
            return None
        place = struct.unpack_from("<H", message, vtable + 4 + 2 * number)[0]
        return table + place if place else None

    def text(at: int) -> str:
        begin = offset(at)
        return message[begin + 4 : offset(begin) - begin + begin + 4].decode()

    zones = {}
    header = member(offset(start), 2)
    fields = None if header is None else member(offset(header), 1)
    if fields is None:
        return {}
    vector = offset(fields)
    for i in range(min(struct.unpack_from("<I", message, vector)[0], MAX_COLUMNS)):
        field = offset(vector + 4 + 4 * i)
        name, kind, body = (member(field, number) for number in (0, 2, 3))
        if name is None or kind is None or body is None or message[kind] != _TIMESTAMP:
            continue
        zone = member(offset(body), 1)
        if zone is not None:
            zones[text(name)] = text(zone)
    return zones


def _footer(data: bytes) -> Mapping[int, Any]:
    """The footer's fields. Raises NoTableError where it declares too much, ValueError where there is none."""
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != MAGIC or size + 12 > len(data):
        raise ValueError("its end is missing")
    thrift = _Thrift(data[-8 - size : -8])
    columns = thrift.columns()
    if columns > MAX_COLUMNS:
        raise too_wide(columns)
    if size > _MOST_FOOTER:
        raise too_large(f"a footer of {size >> 20} MiB", "save it again with fewer row groups")
    fields = thrift.fields()
    if _depth(fields.get(2, [])) > _DEEPEST:
        raise ValueError("its columns are nested too deeply")
    groups = fields.get(4, [])
    rows = max(fields.get(3, 0), sum(group.get(3, 0) for group in groups))
    unpacked = sum(group.get(2, 0) for group in groups)
    most_rows = max(_MOST_ROWS, len(data) // _BYTES_PER_ROW)
    most_bytes = max(_MOST_UNPACKED, _UNPACKING * len(data))
    fix = "split it, one file per symbol or year"
    if rows > most_rows:
        raise too_large(f"{rows:,} rows in {len(data):,} bytes, and at most {most_rows:,} are read", fix)
    if max(unpacked, _CELL * rows * columns) > most_bytes:
        raise too_large(f"unpacked it has more than {most_bytes >> 20} MiB", fix)
    return fields


def _depth(schema: Sequence[Mapping[int, Any]]) -> int:
    """How deeply the columns are nested; the elements follow each other, each with its number of children."""
    open_children: list[int] = []
    deepest = 0
    for element in schema:
        while open_children and not open_children[-1]:
            open_children.pop()
        if open_children:
            open_children[-1] -= 1
        if children := element.get(5, 0):
            open_children.append(children)
            deepest = max(deepest, len(open_children))
    return deepest


class _Thrift:
    """Reads Thrift's compact protocol, in which Parquet writes its footer (FileMetaData of parquet.thrift).

    A struct becomes {field number: value}; text stays bytes. Raises ValueError where the bytes are none.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def columns(self) -> int:
        """Columns that the footer declares: the length of its second field less the root."""
        start, self._at = self._at, 0
        try:
            for number, kind in self._numbered():
                if number == 2 and kind == 9:
                    return self._list_head()[0] - 1
                self._value(kind, 0)
            return 0
        finally:
            self._at = start

    def fields(self, depth: int = 0) -> dict[int, Any]:
        return {number: self._value(kind, depth) for number, kind in self._numbered()}

    def _numbered(self) -> Iterator[tuple[int, int]]:
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            yield number, head & 15

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
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
            return self.fields(depth + 1)
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
