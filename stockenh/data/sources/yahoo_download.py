"""Downloads of daily bars from Yahoo through yfinance, and the files that they are kept in.

Only yfinance needs pandas: its frames leave this file as polars.
"""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from filelock import FileLock

from stockenh.data.cache import PARTS, key_of
from stockenh.errors import ConfigError, DataError, StockenhError
from stockenh.storage.files import LOCK, DiskError, write_atomic, write_json

COLUMNS: Final = ("date", "open", "high", "low", "close", "adj_close", "volume")
INSTALL: Final = "pip install 'stockenh[yahoo]'"

# Case distinguishes columns from tickers: OPEN is Opendoor, LOW is Lowe's.
_FIELDS: Final = {
    "Open": "open", "High": "high", "Low": "low", "Close": "close", "Adj Close": "adj_close",
    "Volume": "volume",
}  # fmt: skip
_PRICES: Final = frozenset({"Open", "High", "Low", "Close"})
_SHARE_CLASS: Final = re.compile(r"([A-Z0-9]+)\.([ABC])")
_LIMITED: Final = re.compile(r"rate.?limit|too many requests|\b429\b", re.IGNORECASE)
_UNREACHABLE: Final = re.compile(
    r"resolve|connect|timed? ?out|proxy|network|\bssl\b|certificate|curl: \(|currently down|\b50\d\b",
    re.IGNORECASE,
)
_SECONDS: Final = 30.0


class NoBarsError(Exception):
    """Yahoo has no bars of a symbol; the text is the reason."""


class UnreachableError(StockenhError):
    """Yahoo did not answer, or refuses more requests for now."""


def yahoo_name(symbol: str) -> str:
    """How Yahoo writes a symbol: the share class BRK.B is BRK-B; VOD.L, on another exchange, stays.

    No exchange has the suffix A, B or C at Yahoo.
    """
    found = _SHARE_CLASS.fullmatch(symbol)
    return f"{found[1]}-{found[2]}" if found else symbol


def fetch(symbol: str, start: date | None, end: date | None) -> pl.DataFrame:
    """The finished daily bars of one symbol from `start` to `end`, both included; None is open.

    Columns as in COLUMNS. Prices are adjusted for splits only, the adjusted close also for dividends, and
    volume is in today's shares. Raises ConfigError without yfinance, NoBarsError, UnreachableError.
    """
    yfinance = client()
    span = {"period": "max"} if start is None and end is None else _span(start, end)
    with _captured_log() as lines:
        try:
            frame = yfinance.download(
                yahoo_name(symbol), **span, interval="1d", auto_adjust=False, actions=False,
                ignore_tz=False, threads=False, progress=False, timeout=_SECONDS,
            )  # fmt: skip
        except Exception as error:  # yfinance, its HTTP client and Yahoo share no base class of errors
            lines.append(f"{type(error).__name__}: {error}")
            frame = None
    bars = _no_bars() if frame is None else bars_of(frame, yahoo_name(symbol), datetime.now(UTC))
    if bars.height:
        return bars
    raise _reason(lines)


def client() -> Any:
    """yfinance. Raises ConfigError where it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import yfinance
    except ImportError:
        raise ConfigError(f"data=yahoo needs yfinance, which is not installed: {INSTALL}") from None
    return yfinance


def bars_of(frame: Any, ticker: str, now: datetime) -> pl.DataFrame:
    """One ticker's bars in a frame of yfinance, without empty rows and unfinished days.

    The frame's columns are (field, ticker), (ticker, field) or, for a single ticker, fields. Its index holds
    days of the exchange in its time zone (UTC where there is none), which decides whether a day is over.
    Raises StockenhError where fields are missing.
    """
    position = _positions(frame, ticker) if len(frame) else {}
    if not position:
        return _no_bars()
    zone = frame.index.tz
    day = frame.index.tz_localize(None).to_numpy().astype("datetime64[D]")
    today = np.datetime64(now.astimezone(zone or UTC).date())
    values = {
        ours: frame.iloc[:, position[theirs]].to_numpy(dtype=np.float64, na_value=np.nan)
        for theirs, ours in _FIELDS.items()
        if theirs in position
    }
    bars = pl.DataFrame({"date": day, **values}).with_columns(pl.col(pl.Float64).fill_nan(None))
    prices = [_FIELDS[name] for name in _PRICES]
    there = ~pl.all_horizontal(pl.col(name).is_null() for name in prices)
    return bars.filter(there & (pl.col("date") < pl.lit(today))).select(n for n in COLUMNS if n in bars)


def _positions(frame: Any, ticker: str) -> dict[str, int]:
    """Field -> position among the frame's columns; empty where the frame lacks the ticker."""
    labels = [label if isinstance(label, tuple) else (label,) for label in frame.columns]
    levels = [set(level) for level in zip(*labels, strict=True)]
    level = next((n for n, names in enumerate(levels) if names >= _PRICES), None)
    if level is None:
        shown = ", ".join(map(str, frame.columns[:6]))
        raise StockenhError(f"yfinance returned unknown columns: {shown}")
    if len(levels) == 1:
        return {name: i for i, (name,) in enumerate(labels)}
    return {label[level]: i for i, label in enumerate(labels) if label[1 - level].upper() == ticker.upper()}


def _span(start: date | None, end: date | None) -> dict[str, str]:
    # without a start, yfinance returns the month before the end; the end itself is excluded
    span = {"start": str(start or date(1900, 1, 1))}
    return span if end is None else {**span, "end": str(end + timedelta(days=1))}


def _no_bars() -> pl.DataFrame:
    return pl.DataFrame(schema={"date": pl.Date} | dict.fromkeys(COLUMNS[1:], pl.Float64))


@contextmanager
def _captured_log() -> Iterator[list[str]]:
    """What yfinance logs instead of raising; nothing of it reaches the terminal."""
    lines: list[str] = []

    class Capture(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, handler = logging.getLogger("yfinance"), Capture()
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield lines
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


def _reason(lines: list[str]) -> Exception:
    """The error behind the log lines of a failed download; the last line has the reason."""
    whole = " ".join(" ".join(lines).split())
    if _LIMITED.search(whole):
        return UnreachableError("Yahoo refuses more requests for now (rate limit)")
    last = " ".join(lines[-1].split()) if lines else ""
    last = re.sub(r"^\[.*?\]: ", "", last).partition(" See http")[0].replace("Failed to perform, ", "")
    if found := re.fullmatch(r"\w+\(['\"](.*?)[.'\")]*", last):
        last = found[1]
    if _UNREACHABLE.search(whole):
        return UnreachableError(f"Yahoo can't be reached ({last[:120]})")
    return NoBarsError(last[:120] or "no bars in these dates")


STAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{6}Z")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to download: symbols as the user writes them, first and last date (None: no limit)."""

    symbols: tuple[str, ...]
    start: date | None
    end: date | None

    def folder(self, root: Path) -> Path:
        """The folder of its downloads."""
        return root / "yahoo" / key_of(sorted(self.symbols), str(self.start), str(self.end))

    def newest(self, root: Path) -> str | None:
        """The stamp of the newest download, if any."""
        stamps = [file.stem for file in self.folder(root).glob("*.parquet") if STAMP.fullmatch(file.stem)]
        return max(stamps, default=None)


def stamp_of(now: datetime) -> str:
    """The name of a download made at this time."""
    return f"{now:%Y-%m-%dT%H%M%SZ}"


def missing(file: Path) -> dict[str, str]:
    """The symbols that a download lacks and why; empty for a file that was copied without its JSON."""
    try:
        known = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["missing"]
        return {str(symbol): str(why) for symbol, why in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def obtain(
    request: Request, root: Path, refresh: bool, watch: Callable[[int, int], None]
) -> tuple[str, bool]:
    """The stamp of the newest download, and whether it was made just now: if there was none, or to refresh.

    Of several processes that need it one downloads, and the others wait for it. Raises as `download` does.
    """
    folder = request.folder(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK).acquire()
    except OSError as error:
        raise DiskError(f"{folder} can't be written: {error.strerror}") from None
    with lock:
        if not refresh and (stamp := request.newest(root)) is not None:
            return stamp, False
        return download(request, root, watch), True


def download(request: Request, root: Path, watch: Callable[[int, int], None]) -> str:
    """Fetches every symbol, writes the bars and returns the download's stamp. `watch` gets (done, total).

    After a failure, the symbols fetched so far are kept for the day and the next try continues there. Raises
    DataError where Yahoo has bars of no symbol, UnreachableError where it does not answer, DiskError.
    """
    folder, now = request.folder(root), datetime.now(UTC)
    parts = folder / f"{PARTS}-{now:%Y-%m-%d}"
    found: list[pl.DataFrame] = []
    absent: dict[str, str] = {}
    for done, symbol in enumerate(request.symbols):
        watch(done, len(request.symbols))
        try:
            bars = _one(symbol, request, parts)
        except NoBarsError as error:
            absent[symbol] = str(error)
        except UnreachableError as error:
            raise UnreachableError(f"data=yahoo: {error}. {_next_try(done, request)}") from None
        else:
            found.append(bars.select(pl.lit(symbol).alias("symbol"), pl.all()))
    watch(len(request.symbols), len(request.symbols))
    if not found:
        reasons = "; ".join(f"{symbol}: {why}" for symbol, why in list(absent.items())[:3])
        raise DataError(f"data.symbols: Yahoo has bars of none of them ({reasons}); check their spelling")
    stamp = stamp_of(now)
    about: dict[str, Any] = {
        "downloaded": stamp,
        "symbols": list(request.symbols),
        "start": str(request.start) if request.start else None,
        "end": str(request.end) if request.end else None,
        "missing": absent,
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


def _next_try(done: int, request: Request) -> str:
    if not done:
        return "Try again later, or use bars that you have: data=files data.path=DIR"
    kept = f"{done} of {len(request.symbols)} symbols are kept"
    return f"{kept}: the same command continues from there later today"


def _parquet(frame: pl.DataFrame) -> memoryview:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getbuffer()
