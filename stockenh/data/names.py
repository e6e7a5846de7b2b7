"""File names: the symbol in them, and how they are shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

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
