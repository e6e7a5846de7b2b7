"""Bars from files: the sample inside the package (`data=sample`) and the user's own (`data=files`)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data import Count
from stockenh.data import readers as read
from stockenh.data.bars import VOLUME, Bars, adjust_bars
from stockenh.data.cache import DiskCache, code_of, key_of
from stockenh.data.extra import ExtraSettings
from stockenh.data.findings import Finding
from stockenh.data.readers import ReadResult, ReadSettings, list_files
from stockenh.data.sources import BarData, Loaded, located
from stockenh.data.sources.extra_files import content_key, findings_on, load_extra
from stockenh.errors import DataError, printable_line

Part = Literal["symbol", "date", "open", "high", "low", "close", "volume", "adj_close"]  # of a bar
SAMPLE_FILE: Final = Path(__file__).parents[1] / "sample" / "bars.parquet"


def load_sample() -> Bars:
    """AAPL, GOOG, IBM and MSFT from March 2000 (GOOG: August 2004) to March 2013, 11,958 adjusted bars.

    The file holds prices as traded beside an adjusted close, and is adjusted like any other file. Volume is
    then converted into shares of the last bar: before a 2:1 split it is twice what was traded.
    The source of the bars is documented in sample/PROVENANCE.md.
    """
    table = pl.read_parquet(SAMPLE_FILE)
    series = []
    for (symbol,), rows in table.group_by("symbol", maintain_order=True):
        ohlcv = rows.select("open", "high", "low", "close", "volume").cast(pl.Float64).to_numpy()
        time = rows["date"].to_numpy().astype("datetime64[s]")
        adjusted = adjust_bars(ohlcv, rows["adj_close"].to_numpy())
        adjusted[:, VOLUME] *= ohlcv[-1, VOLUME] / adjusted[-1, VOLUME]
        series.append((str(symbol), time, adjusted))
    return Bars.from_series(series)


@dataclass(frozen=True)
class SampleData(BarData):
    """The real daily bars that come with the package."""

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        return Loaded(self._windows(load_sample(), cache, labels))


@dataclass(frozen=True)
class FilesData(BarData):
    """A folder of one CSV or Parquet per symbol, or one long file."""

    path: str = "???"
    columns: dict[Part, str | None] = field(default_factory=dict)  # null: guess
    adjust: bool = True
    dayfirst: bool | None = None
    max_gap_days: Count = 30
    extra: ExtraSettings = field(default_factory=ExtraSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.extra.refuse_names(self.own_inputs() | {part.casefold() for part in get_args(Part)})

    def read(self) -> ReadResult:
        """The bars and every finding. Raises DataError where there is no file at all."""
        path, settings = located(self.path), self._read_settings()
        result = read.read_bars(path, settings)
        found = findings_on(result.bars, self.extra, path, settings) if self.extra else ()
        return replace(result, findings=(*result.findings, *found))

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        path = located(self.path)
        settings = self._read_settings() if labels else replace(self._read_settings(), min_bars=1)

        def read_now() -> dict[str, NDArray[np.generic]]:
            if text := read.sign_of_work(list_files(path)):
                cache.note(text)
            return _pack(read.read_bars(path, settings))

        stored = cache.arrays("bars", self._key(path, settings), read_now)
        bars, findings = _unpack(stored)
        if not len(bars):
            name = printable_line(str(path))
            raise DataError(f"{name}: no usable bars. {_worst(findings)} See: stockenh data check {name}")
        if not self.extra:
            return Loaded(self._windows(bars, cache, labels), findings)
        extra, found = load_extra(bars, self.extra, path, settings, cache, labels)
        return Loaded(self._windows(bars, cache, labels, extra), (*findings, *found))

    def _read_settings(self) -> ReadSettings:
        return ReadSettings(
            columns={name: own for name, own in self.columns.items() if own is not None},
            adjust=self.adjust,
            max_gap_days=self.max_gap_days,
            min_bars=self.lookback + min(self.horizons),
            dayfirst=self.dayfirst,
            own=tuple(self.extra.names),
        )

    def _key(self, path: Path, settings: ReadSettings) -> str:
        names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        return key_of(content_key(list_files(path)), names, settings, code_of("data"))


def _pack(result: ReadResult) -> dict[str, NDArray[np.generic]]:
    bars = result.bars
    text = json.dumps({"symbols": bars.symbols, "findings": [asdict(f) for f in result.findings]})
    return {
        "offsets": bars.offsets,
        "time": bars.time.astype(np.int64),
        "ohlcv": bars.ohlcv,
        "text": np.frombuffer(text.encode(), np.uint8),
    }


def _unpack(arrays: dict[str, NDArray[np.generic]]) -> tuple[Bars, tuple[Finding, ...]]:
    text = json.loads(arrays["text"].tobytes())
    bars = Bars(
        symbols=tuple(text["symbols"]),
        offsets=np.asarray(arrays["offsets"], np.int64),
        time=np.asarray(arrays["time"]).astype("datetime64[s]"),
        ohlcv=np.asarray(arrays["ohlcv"], np.float64),
    )
    return bars, tuple(Finding(**f) for f in text["findings"])


def _worst(findings: tuple[Finding, ...]) -> str:
    errors = [f for f in findings if f.level == "error"] or list(findings)
    return f"{errors[0].file}: {errors[0].message}; {errors[0].fix}." if errors else ""
