"""A file's bytes: unpacked, of bounded size, and recognised where they are no table."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path
from typing import Final

MAX_COLUMNS: Final = 20_000
MAX_BYTES: Final = 2 << 30
_MOST_UNPACKED: Final = 128 << 20  # bytes of an unpacked .gz, or _UNPACKING times the packed ones if more
_UNPACKING: Final = 3
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


class NoTableError(Exception):
    """A file holds no table. Arguments: the rule that says so, what was seen, and the fix."""


def too_large(what: str, fix: str) -> NoTableError:
    """The refusal of a file that would need far more memory or time than its bars."""
    return NoTableError("too-large", what, fix)


def too_wide(columns: int) -> NoTableError:
    what = f"{columns:,} columns, and at most {MAX_COLUMNS:,} are read"
    return too_large(what, "save one symbol per file, or a long table with a column of symbols")


def read_bytes(path: Path) -> bytes:
    """The unpacked content. Raises NoTableError where it can't be read or is no table."""
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(path.stat().st_mode):
                raise NoTableError("unreadable-file", "not a regular file", "remove it")
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise too_large(f"more than {MAX_BYTES >> 30} GiB", "split it, one file per symbol or year")
        if path.name.lower().endswith(".gz") or data.startswith(_GZIP):
            data = _unpacked(data)
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


def _unpacked(data: bytes) -> bytes:
    """Unpacks up to a limit, because a few bytes of gzip may stand for gigabytes; one member each time."""
    most = max(_MOST_UNPACKED, _UNPACKING * len(data))
    parts: list[bytes] = []
    size = 0
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        part = unpacker.decompress(data, most - size + 1)
        size += len(part)
        parts.append(part)
        if size > most:
            raise too_large(f"unpacked it has more than {most >> 20} MiB", "unpack it, if it holds bars")
        if not unpacker.eof:
            raise EOFError("the compressed file ends too early")
        data = unpacker.unused_data.lstrip(b"\0")
    return b"".join(parts)
