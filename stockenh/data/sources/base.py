"""The real daily bars that come with the package, so that a first run needs no data and no network."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data.bars import VOLUME, Bars, adjust_bars
from stockenh.data.cache import DiskCache, code_of, key_of
from stockenh.data.features import context as features
from stockenh.data.features.context import FeatureSettings
from stockenh.data.findings import Finding
from stockenh.data.readers import read
from stockenh.data.readers.read import ReadResult, ReadSettings, list_files
from stockenh.data.sources import synthetic
from stockenh.data.sources.synthetic import MarketSettings
from stockenh.data.sources.windows_file import read_windows
from stockenh.data.windows import BarWindows, Windows, index_windows
from stockenh.errors import ConfigError, DataError
from stockenh.storage.files import expanded

SAMPLE_FILE: Final = Path(__file__).parents[1] / "sample" / "bars.parquet"


def load_sample() -> Bars:
    """AAPL, GOOG, IBM and MSFT from March 2000 (GOOG: August 2004) to March 2013, 11,958 adjusted bars.

    The file holds prices as traded beside an adjusted close, and goes through the adjustment that files get.
    Volume is then put into the shares of the last bar: before a 2:1 split it is twice what was traded.
    sample/PROVENANCE.md says where the bars come from.
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
class Loaded:
    """Windows, and the findings of the reading rules."""

    windows: Windows
    findings: tuple[Finding, ...] = ()


class DataSettings(ABC):
    """Settings of a data source.

    brings_embedding: its windows come with one
    downloads:        it may have to fetch bars, see `settled`
    """

    brings_embedding: ClassVar[bool] = False
    brings_bars: ClassVar[bool] = True
    downloads: ClassVar[bool] = False
    horizons: list[int]

    def settled(
        self, cache: DiskCache, watch: Callable[[int, int], None], say: Callable[[str], None]
    ) -> Self:
        """The settings with what they leave to the moment decided: whoever goes on from them reads the same.

        What has to come from elsewhere is fetched here; `watch` sees how far that is, `say` is told of it.
        """
        return self

    @abstractmethod
    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        """Raises DataError where nothing usable is there.

        Without `labels`, bars that are too few for a window or its label are kept: a forecast says itself
        for which symbols they don't suffice.
        """

    def windows_of(self, bars: Bars) -> Windows:
        """The windows of other bars, made as its own, nothing cached. Raises ConfigError without bars."""
        raise ConfigError("data=windows brings no bars to make other windows of")


@dataclass(frozen=True)
class BarData(DataSettings):
    """What every source of raw bars shares: windows of `lookback` bars, features, labels."""

    horizons: list[int] = field(default_factory=lambda: [3, 5, 10])
    lookback: int = 120
    timeframes: list[str] = field(default_factory=lambda: ["1d", "1w", "2w", "1mo", "1q"])

    def __post_init__(self) -> None:
        check_horizons(self.horizons)
        self._feature_settings()

    def windows_of(self, bars: Bars) -> Windows:
        return self._windows(bars, DiskCache(None), labels=False)

    def _feature_settings(self) -> FeatureSettings:
        return FeatureSettings(tuple(self.timeframes), self.lookback)

    def _windows(self, bars: Bars, cache: DiskCache, labels: bool) -> BarWindows:
        settings = self._feature_settings()
        key = key_of(bars.digest(), settings, code_of("data"))
        context = cache.arrays(
            "features", key, lambda: {"context": features.context_features(bars, settings)}
        )["context"]
        windows = index_windows(
            bars,
            context.astype(np.float32, copy=False),
            features.feature_names(settings),
            self.horizons,
            self.lookback,
        )
        if labels and not windows.labelled.any():
            raise DataError(
                f"no symbol has the {self.lookback} bars of data.lookback and the {min(self.horizons)} more "
                f"that a label of data.horizons needs"
            )
        return windows


@dataclass(frozen=True)
class SampleData(BarData):
    """The real daily bars that come with the package."""

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        return Loaded(self._windows(load_sample(), cache, labels))


@dataclass(frozen=True)
class FilesData(BarData):
    """A folder of one CSV or Parquet per symbol, or one long file."""

    path: str = "???"
    columns: dict[str, str | None] = field(default_factory=dict)  # null: guessed
    adjust: bool = True
    max_gap_days: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        self._read_settings()

    def read(self) -> ReadResult:
        """The bars and every finding; raises DataError where there is no file at all."""
        return read.read_bars(_located(self.path), self._read_settings())

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        path = _located(self.path)
        settings = self._read_settings() if labels else replace(self._read_settings(), min_bars=1)
        stored = cache.arrays(
            "bars", self._key(path, settings), lambda: _pack(read.read_bars(path, settings))
        )
        bars, findings = _unpack(stored)
        if not len(bars):
            raise DataError(f"{path}: no usable bars. {_worst(findings)} See: stockenh data check {path}")
        return Loaded(self._windows(bars, cache, labels), findings)

    def _read_settings(self) -> ReadSettings:
        return ReadSettings(
            columns={name: own for name, own in self.columns.items() if own is not None},
            adjust=self.adjust,
            max_gap_days=self.max_gap_days,
            min_bars=self.lookback + min(self.horizons),
        )

    def _key(self, path: Path, settings: ReadSettings) -> str:
        files = list_files(path)
        names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        return key_of([(file.name, _content(file)) for file in files], names, settings, code_of("data"))


@dataclass(frozen=True)
class SyntheticData(BarData):
    """A generated market whose best forecast is known; making it anew takes less time than a cache would."""

    symbols: int = 30
    bars: int = 2000
    seed: int = 0
    strength: float = 1.0
    start: str = "2012-01-02"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._market()

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        market = self._market()
        bars = synthetic.generate(market)
        windows = self._windows(bars, cache, labels)
        best_prob = synthetic.best_probabilities(bars, market, self.horizons)[windows.end]
        return Loaded(replace(windows, best_prob=best_prob))

    def _market(self) -> MarketSettings:
        return MarketSettings(self.symbols, self.bars, self.seed, self.strength, self.start)


@dataclass(frozen=True)
class WindowsData(DataSettings):
    """Ready samples in one Parquet."""

    brings_embedding: ClassVar[bool] = True
    brings_bars: ClassVar[bool] = False

    path: str = "???"
    horizons: list[int] = field(default_factory=lambda: [3, 5, 10])

    def __post_init__(self) -> None:
        check_horizons(self.horizons)

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        return Loaded(*read_windows(_located(self.path), tuple(self.horizons)))


def check_horizons(horizons: list[int]) -> None:
    """Raises ConfigError unless horizons are increasing numbers of bars."""
    if not horizons or min(horizons) < 1 or sorted(set(horizons)) != list(horizons):
        raise ConfigError(
            f"data.horizons={horizons} must be increasing numbers of bars from 1, for example [3, 5, 10]"
        )


def _located(path: str) -> Path:
    found = expanded(path)
    try:
        str(found).encode()
    except UnicodeEncodeError:
        told = str(found).encode("utf-8", "backslashreplace").decode()
        raise ConfigError(f"data.path={told}: its name has bytes that are no UTF-8 text; rename it") from None
    return found


def _content(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()
    except OSError as error:
        return repr(error)  # reading the file will say what is wrong with it


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
