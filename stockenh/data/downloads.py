"""Downloads kept in the cache: one Parquet of bars for each, by what was asked and when.

A download is a file `ROOT/yahoo/KEY/STAMP.parquet` with `STAMP.json` beside it, which says what could not be
had. None is ever replaced: adjusted prices change with every dividend, and a run must find its own again.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from stockenh.data.cache import key_of
from stockenh.data.yahoo_client import NoBarsError, UnreachedError, fetch
from stockenh.errors import DataError
from stockenh.files import DiskError, write_atomic, write_json

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
