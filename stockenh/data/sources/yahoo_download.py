"""One symbol's daily bars from Yahoo, through yfinance: what is asked, and what its answers mean.

pandas comes with yfinance alone: what it holds leaves this file as polars.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from stockenh.data.cache import key_of
from stockenh.errors import ConfigError, DataError, StockenhError
from stockenh.storage.files import DiskError, write_atomic, write_json

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


STAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{6}Z")
_PARTS: Final = ".parts"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is asked of Yahoo: symbols as the user writes them, first and last date (None: no limit)."""

    symbols: tuple[str, ...]
    start: date | None
    end: date | None

    def folder(self, root: Path) -> Path:
        """Where its downloads lie."""
        return root / "yahoo" / key_of(sorted(self.symbols), str(self.start), str(self.end))

    def newest(self, root: Path) -> str | None:
        """The stamp of the newest download, if there is any."""
        stamps = [file.stem for file in self.folder(root).glob("*.parquet") if STAMP.fullmatch(file.stem)]
        return max(stamps, default=None)


def stamp_of(now: datetime) -> str:
    """The name of a download that is made now."""
    return f"{now:%Y-%m-%dT%H%M%SZ}"


def missing(file: Path) -> dict[str, str]:
    """The symbols that a download lacks, and what Yahoo said of each; nothing for a file from elsewhere."""
    try:
        known = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["missing"]
        return {str(symbol): str(why) for symbol, why in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def obtain(
    request: Request, root: Path, refresh: bool, watch: Callable[[int, int], None]
) -> tuple[str, bool]:
    """The stamp of the newest download, and whether it was made just now: where there is none, or to refresh.

    Of several processes that lack it one downloads, and the others wait for it. Raises as `download` does.
    """
    folder = request.folder(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise DiskError(f"{folder} can't be written: {error.strerror}") from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not refresh and (stamp := request.newest(root)) is not None:
            return stamp, False
        return download(request, root, watch), True


def download(request: Request, root: Path, watch: Callable[[int, int], None]) -> str:
    """Fetches every symbol and keeps the bars; the download's stamp is returned. `watch` sees how far it is.

    What came before a failure is kept for the day, so that the next try goes on from there. Raises DataError
    where Yahoo has bars of no symbol, UnreachedError where it does not answer, DiskError.
    """
    folder, now = request.folder(root), datetime.now(UTC)
    parts = folder / f"{_PARTS}-{now:%Y-%m-%d}"
    found: list[pl.DataFrame] = []
    lacking: dict[str, str] = {}
    for done, symbol in enumerate(request.symbols):
        watch(done, len(request.symbols))
        try:
            bars = _one(symbol, request, parts)
        except NoBarsError as error:
            lacking[symbol] = str(error)
        except UnreachedError as error:
            raise UnreachedError(f"data=yahoo: {error}. {_kept(done, request)}") from None
        else:
            found.append(bars.select(pl.lit(symbol).alias("symbol"), pl.all()))
    watch(len(request.symbols), len(request.symbols))
    if not found:
        told = "; ".join(f"{symbol}: {why}" for symbol, why in list(lacking.items())[:3])
        raise DataError(f"data.symbols: Yahoo has bars of none of them ({told}); are they written as there?")
    stamp = stamp_of(now)
    about: dict[str, Any] = {
        "downloaded": stamp,
        "symbols": list(request.symbols),
        "start": str(request.start) if request.start else None,
        "end": str(request.end) if request.end else None,
        "missing": lacking,
    }
    write_json(folder / f"{stamp}.json", about)
    write_atomic(folder / f"{stamp}.parquet", _parquet(pl.concat(found, how="diagonal")))
    shutil.rmtree(parts, ignore_errors=True)
    log.info("downloaded %s of %s symbols", len(found), len(request.symbols))
    return stamp


def _one(symbol: str, request: Request, parts: Path) -> pl.DataFrame:
    kept = parts / f"{key_of(symbol)}.parquet"
    if kept.is_file():
        try:
            return pl.read_parquet(kept)
        except (OSError, pl.exceptions.PolarsError):
            log.warning("%s can't be read: fetching %s again", kept, symbol)
    bars = fetch(symbol, request.start, request.end)
    write_atomic(kept, _parquet(bars))
    return bars


def _kept(done: int, request: Request) -> str:
    if not done:
        return "Try again later; bars that you have already are data=files data.path=DIR"
    return (
        f"{done} of {len(request.symbols)} symbols are kept: the same command later today goes on from there"
    )


def _parquet(frame: pl.DataFrame) -> memoryview:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getbuffer()


def listed(symbols: Sequence[str]) -> str:
    """The first few of them."""
    more = f" and {len(symbols) - 3} more" if len(symbols) > 3 else ""
    return ", ".join(symbols[:3]) + more
