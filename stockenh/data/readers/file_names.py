"""The symbol, and the years, in a file's name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.errors import printable_line

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet")
_DAY: Final = (
    r"(?:\d{2}-\d{2}-\d{4}|\d{4}-\d{2}-\d{2}|(?:19|20)\d{6}(?:\d{4})?|\d{4}(?:19|20)\d{2}|(?:19|20)\d{2})"
)
_RANGE: Final = rf"{_DAY}(?:[-_ ]?to[-_ ]?|[-_ ]){_DAY}"
_AGAIN: Final = r"(?: ?\(\d+\))?"  # what browsers append to a second download
_NSE: Final = re.compile(rf"^Quote-Equity-(.+)-[A-Z][A-Z0-9]-{_RANGE}", re.IGNORECASE)
_NSE_ARCHIVE: Final = re.compile(rf"^{_RANGE}(.+?)(?:EQ|ALL)N?{_AGAIN}$", re.IGNORECASE)
_WITH_RANGE: Final = re.compile(rf"^(.+?)[-_ ]{_RANGE}{_AGAIN}$", re.IGNORECASE)
_META_TRADER: Final = re.compile(r"^(.+?)_(?:Daily|Weekly|Monthly|[MH]\d{1,2})$")
_STOOQ: Final = re.compile(r"^([a-z0-9^.&-]+?)(?:_([a-z]{2}))?_d$")
_PERIOD: Final = re.compile(
    r"^(?P<symbol>.+?)[-_. ](?P<year>(?:19|20)\d{2})(?:[-_.]?(?P<month>\d{2}))?(?:[-_.]?(?P<day>\d{2}))?"
    rf"{_AGAIN}$"
)


def display_name(path: Path) -> str:
    """A file's name as printable text; bytes that are not UTF-8 are read as Latin-1."""
    raw = os.fsencode(path.name)
    try:
        return printable_line(raw.decode())
    except UnicodeDecodeError:
        return printable_line(raw.decode("latin-1"))


def symbol_of(path: Path) -> str:
    """The symbol in a file's name: BRK.B.csv is BRK.B.

    Stooq's aapl.us.txt and aapl_us_d.csv are AAPL, its cdr_d.csv is CDR and vod_uk_d.csv VOD.UK; the
    exchange's Quote-Equity-SBIN-EQ-01-01-2022-to-31-12-2022.csv is SBIN, and
    NIFTY 50-01-01-2022-to-31-12-2022.csv is NIFTY 50.
    """
    name = stem = display_name(path)
    for suffix in (".gz", *SUFFIXES):
        if stem.lower().endswith(suffix) and len(stem) > len(suffix):
            stem = stem[: -len(suffix)]
    if found := _NSE.match(stem) or _NSE_ARCHIVE.match(stem):
        return found[1]
    if found := _WITH_RANGE.match(stem):
        symbol = found[1]
        return found[1] if (found := _META_TRADER.match(symbol)) else symbol
    if name.lower().endswith(".txt"):
        return stem.upper().removesuffix(".US")
    if found := _STOOQ.match(stem):
        market = "" if found[2] in (None, "us") else f".{found[2]}"
        return f"{found[1]}{market}".upper()
    for prefix in ("daily_adjusted_", "daily_"):
        if stem.startswith(prefix) and len(stem) > len(prefix):
            return stem.removeprefix(prefix)
    return stem


def without_number(symbol: str) -> str:
    """AAPL for AAPL (1), which browsers call a second download."""
    return re.sub(r" ?\(\d{1,3}\)$", "", symbol)


def without_period(symbol: str, time: NDArray[np.datetime64]) -> str:
    """AAPL for AAPL_2022 (or _2022-01, _20220131) whose times (n,) all lie in that year, month or day."""
    found = _PERIOD.match(symbol)
    if not found or not len(time):
        return symbol
    parts = [part for part in found.group("year", "month", "day") if part]
    named = "-".join(parts)
    return found["symbol"] if all(str(end).startswith(named) for end in (time.min(), time.max())) else symbol
