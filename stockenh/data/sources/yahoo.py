"""`data=yahoo`: daily bars from Yahoo, downloaded once and then read like any other file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import ClassVar, Final, Self

from stockenh.data import Count
from stockenh.data.cache import DiskCache
from stockenh.data.findings import Finding, first_few
from stockenh.data.sources import BarData, Loaded
from stockenh.data.sources.files import FilesData
from stockenh.data.sources.yahoo_download import STAMP, Request, missing, obtain, yahoo_name
from stockenh.errors import ConfigError, DataError

_SYMBOL: Final = re.compile(r"\^?[A-Z0-9][A-Z0-9.&=_-]*")


@dataclass(frozen=True)
class YahooData(BarData):
    """Symbols and dates of a download, and which download to use.

    start, end: the first and the last date, both included; None: no limit
    refresh:    download again, even if there is a download already
    downloaded: the stamp of the download to use; a run records the one it used
    path:       a download that was copied from another machine
    """

    downloads: ClassVar[bool] = True

    symbols: list[str] = field(default_factory=list)
    start: str | None = None
    end: str | None = None
    refresh: bool = False
    downloaded: str | None = None
    path: str | None = None
    max_gap_days: Count = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        request = self._request()
        for symbol in request.symbols:
            if not _SYMBOL.fullmatch(symbol):
                raise ConfigError(f"data.symbols: {symbol!r} is not a symbol such as AAPL, BRK.B or VOD.L")
        names = [yahoo_name(symbol) for symbol in request.symbols]
        if not names:
            raise ConfigError("data.symbols names no symbol: data.symbols=[AAPL,MSFT]")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"data.symbols names {twice[0]} twice")
        if request.start and request.end and request.start > request.end:
            raise ConfigError(f"data.start={self.start} must not be after data.end={self.end}")
        if self.downloaded is not None and not STAMP.fullmatch(self.downloaded):
            raise ConfigError(
                f"data.downloaded={self.downloaded} is not a download's stamp such as 2024-01-31T120000Z; "
                f"leave it out to use the newest"
            )
        if self.refresh and self.path is not None:
            raise ConfigError(
                "data.refresh=true downloads, and data.path names bars to use instead: drop one"
            )

    def resolve(
        self, cache: DiskCache, watch: Callable[[int, int], None], say: Callable[[str], None]
    ) -> Self:
        """The settings with one download named, which is made if there is none or `refresh` is set."""
        if self.path is not None or (self.downloaded is not None and not self.refresh):
            return self
        request = self._request()
        stamp, fresh = obtain(request, self._root(cache), self.refresh, watch)
        found = replace(self, refresh=False, downloaded=stamp)
        file = found._file(cache)
        newer = "" if fresh or self.end is not None else "; data.refresh=true downloads newer bars"
        say(f"yahoo    {first_few(request.symbols)} as downloaded {stamp[:10]}: {file}{newer}")
        if renamed := [f"{s} is {yahoo_name(s)}" for s in request.symbols if yahoo_name(s) != s]:
            say(f"yahoo    as Yahoo writes it, {first_few(renamed)}")
        return found

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        file = self.resolve(cache, lambda done, total: None, lambda text: None)._file(cache)
        loaded = self._files(file).load(cache, labels)
        fix = "correct data.symbols; a delisted company may have none"
        absent = [
            Finding("error", "not-at-yahoo", f"Yahoo has no bars: {why}", fix, symbol, symbol)
            for symbol, why in missing(file).items()
        ]
        return replace(loaded, findings=(*absent, *loaded.findings))

    def _file(self, cache: DiskCache) -> Path:
        if self.path is not None:
            return Path(self.path)
        folder = self._request().folder(self._root(cache))
        file = folder / f"{self.downloaded}.parquet"
        if not file.is_file():
            raise DataError(
                f"the bars of {first_few(self.symbols)} that were downloaded {str(self.downloaded)[:10]} are "
                f"not in this cache ({file}), and Yahoo's adjusted prices have changed since: copy that file "
                f"from the machine that downloaded it and name it with data.path=FILE, set the cache_dir=DIR "
                f"that holds it, or train again"
            )
        return file

    def _root(self, cache: DiskCache) -> Path:
        if cache.root is None:
            raise ConfigError(
                "data=yahoo keeps its downloads in the cache, and there is no folder for one: name it with "
                "cache_dir=DIR or $STOCKENH_CACHE"
            )
        return cache.root

    def _request(self) -> Request:
        symbols = tuple(symbol.strip().upper() for symbol in self.symbols)
        return Request(symbols, _day("data.start", self.start), _day("data.end", self.end))

    def _files(self, file: Path) -> FilesData:
        return FilesData(
            horizons=self.horizons, lookback=self.lookback, timeframes=self.timeframes, path=str(file),
            max_gap_days=self.max_gap_days, market=self.market,
        )  # fmt: skip


def _day(key: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{key}={text} is not a date such as 2010-01-31") from None
