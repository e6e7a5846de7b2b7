"""What a check has to say about a file: one finding per rule, file and symbol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "drop", "warning"]


@dataclass(frozen=True)
class Finding:
    """One rule that fired.

    level:   "error" leaves the file or symbol out, "drop" leaves rows out, "warning" keeps everything
    rule:    short name such as "high-below-low"
    file:    file name, "" for the folder as a whole
    symbol:  "" where the file could not be read that far or holds several symbols
    date:    first affected date "YYYY-MM-DD", or ""
    rows:    number of affected rows
    message: what was seen, one line
    fix:     what to do about it, one line
    """

    level: Level
    rule: str
    file: str
    symbol: str
    date: str
    rows: int
    message: str
    fix: str


def quoted(text: str, width: int = 80) -> str:
    """The first `width` characters of a text, on one line and printable, in quotes."""
    line = "".join(c if c.isprintable() else " " for c in text[:width])
    return f"'{' '.join(line.split())}'"
