"""One symbol's daily bars from Yahoo, through yfinance: what is asked, and what its answers mean.

pandas comes with yfinance alone: what it holds leaves this file as polars.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl

from stockenh.errors import ConfigError, StockenhError

COLUMNS: Final = ("date", "open", "high", "low", "close", "adj_close", "volume")
INSTALL: Final = "pip install 'stockenh[yahoo]'"

# Case tells a column from a ticker: OPEN is Opendoor's, LOW is Lowe's.
_FIELDS: Final = {
    "Open": "open", "High": "high", "Low": "low", "Close": "close", "Adj Close": "adj_close",
    "Volume": "volume",
}  # fmt: skip
_PRICES: Final = frozenset({"Open", "High", "Low", "Close"})
_SHARE_CLASS: Final = re.compile(r"([A-Z0-9]+)\.([ABC])")
_LIMITED: Final = re.compile(r"rate.?limit|too many requests|\b429\b", re.IGNORECASE)
_UNREACHED: Final = re.compile(
    r"resolve|connect|timed? ?out|proxy|network|\bssl\b|certificate|curl: \(|currently down|\b50\d\b",
    re.IGNORECASE,
)
_SECONDS: Final = 30.0


class NoBarsError(Exception):
    """Yahoo has no bars of a symbol; the text says what it answered."""


class UnreachedError(StockenhError):
    """Yahoo did not answer, or refuses to answer more for now."""


def yahoo_name(symbol: str) -> str:
    """How Yahoo writes a symbol: BRK.B is BRK-B; VOD.L, of another exchange, stays.

    The share classes A, B and C are no exchanges of Yahoo's.
    """
    found = _SHARE_CLASS.fullmatch(symbol)
    return f"{found[1]}-{found[2]}" if found else symbol


def fetch(symbol: str, start: date | None, end: date | None) -> pl.DataFrame:
    """The finished daily bars of one symbol from `start` to `end`, both included; None: all there are.

    Columns as in COLUMNS. Prices are adjusted for splits alone, beside an adjusted close, and volume is in
    today's shares. Raises ConfigError without yfinance, NoBarsError, UnreachedError.
    """
    yfinance = client()
    span = {"period": "max"} if start is None and end is None else _span(start, end)
    with _heard() as said:
        try:
            frame = yfinance.download(
                yahoo_name(symbol), **span, interval="1d", auto_adjust=False, actions=False,
                ignore_tz=False, threads=False, progress=False, timeout=_SECONDS,
            )  # fmt: skip
        except Exception as error:  # its own, the HTTP client's, Yahoo's: they share no class
            said.append(f"{type(error).__name__}: {error}")
            frame = None
    bars = _nothing() if frame is None else bars_of(frame, yahoo_name(symbol), datetime.now(UTC))
    if bars.height:
        return bars
    raise _reason(said)


def client() -> Any:
    """yfinance. Raises ConfigError where it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import yfinance
    except ImportError:
        raise ConfigError(f"data=yahoo needs yfinance, which is not installed: {INSTALL}") from None
    return yfinance


def bars_of(frame: Any, ticker: str, now: datetime) -> pl.DataFrame:
    """One ticker's bars in a frame of yfinance, without empty rows and without a day that is not over.

    The frame's columns are (field, ticker), (ticker, field) or, for a single ticker, fields; its index holds
    days of the exchange, whose zone says what day it is there (UTC where there is none). Raises
    StockenhError where fields are missing.
    """
    at = _columns(frame, ticker) if len(frame) else {}
    if not at:
        return _nothing()
    zone = frame.index.tz
    day = frame.index.tz_localize(None).to_numpy().astype("datetime64[D]")
    today = np.datetime64(now.astimezone(zone or UTC).date())
    values = {
        ours: frame.iloc[:, at[theirs]].to_numpy(dtype=np.float64, na_value=np.nan)
        for theirs, ours in _FIELDS.items()
        if theirs in at
    }
    bars = pl.DataFrame({"date": day, **values}).with_columns(pl.col(pl.Float64).fill_nan(None))
    prices = [_FIELDS[name] for name in _PRICES]
    there = ~pl.all_horizontal(pl.col(name).is_null() for name in prices)
    return bars.filter(there & (pl.col("date") < pl.lit(today))).select(n for n in COLUMNS if n in bars)


def _columns(frame: Any, ticker: str) -> dict[str, int]:
    """Field -> position among the frame's columns; empty where the frame has others' alone."""
    labels = [label if isinstance(label, tuple) else (label,) for label in frame.columns]
    levels = [set(level) for level in zip(*labels, strict=True)]
    level = next((n for n, names in enumerate(levels) if names >= _PRICES), None)
    if level is None:
        shown = ", ".join(map(str, frame.columns[:6]))
        raise StockenhError(f"yfinance answers with columns that are not known here: {shown}")
    if len(levels) == 1:
        return {name: at for at, (name,) in enumerate(labels)}
    return {label[level]: at for at, label in enumerate(labels) if label[1 - level].upper() == ticker.upper()}


def _span(start: date | None, end: date | None) -> dict[str, str]:
    # yfinance takes the month before the end where no start is given, and leaves the end itself out
    span = {"start": str(start or date(1900, 1, 1))}
    return span if end is None else {**span, "end": str(end + timedelta(days=1))}


def _nothing() -> pl.DataFrame:
    return pl.DataFrame(schema={"date": pl.Date} | dict.fromkeys(COLUMNS[1:], pl.Float64))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What yfinance logs instead of raising; nothing of it reaches the terminal."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, ear = logging.getLogger("yfinance"), Ear()
    propagated, log.propagate = log.propagate, False
    log.addHandler(ear)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield said
    finally:
        log.removeHandler(ear)
        log.propagate = propagated


def _reason(said: list[str]) -> Exception:
    """What the lines of a failed download come to: the last of them says why."""
    whole = " ".join(" ".join(said).split())
    if _LIMITED.search(whole):
        return UnreachedError("Yahoo refuses more requests for now (rate limit)")
    last = " ".join(said[-1].split()) if said else ""
    last = re.sub(r"^\[.*?\]: ", "", last).partition(" See http")[0].replace("Failed to perform, ", "")
    if found := re.fullmatch(r"\w+\(['\"](.*?)[.'\")]*", last):
        last = found[1]
    if _UNREACHED.search(whole):
        return UnreachedError(f"Yahoo can't be reached ({last[:120]})")
    return NoBarsError(last[:120] or "no bars in these dates")
