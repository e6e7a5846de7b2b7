"""What every data source has: its settings, and the windows that it loads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stockenh.data import Count, Horizons, increasing
from stockenh.data import features as context
from stockenh.data.bars import Bars
from stockenh.data.cache import DiskCache, code_of, key_of
from stockenh.data.extra import ExtraColumns
from stockenh.data.features import FeatureSettings, parse_timeframe
from stockenh.data.features.as_of import extra_features
from stockenh.data.features.market import MARKET_NAMES
from stockenh.data.findings import Finding
from stockenh.data.windows import BarWindows, Windows, index_windows, keep_windows, window_ends
from stockenh.errors import ConfigError, DataError
from stockenh.storage.files import expanded


@dataclass(frozen=True)
class Loaded:
    """Windows, and the findings of the reading rules."""

    windows: Windows
    findings: tuple[Finding, ...] = ()


class DataSettings(ABC):
    """Settings of a data source.

    brings_embedding: its windows come with an embedding
    brings_bars:      its windows are made from raw bars
    downloads:        it may have to fetch bars, see `resolve`
    generated:        its market is simulated
    stride:           of the dates of the train part every stride-th is trained on
    """

    brings_embedding: ClassVar[bool] = False
    brings_bars: ClassVar[bool] = True
    downloads: ClassVar[bool] = False
    generated: ClassVar[bool] = False
    horizons: list[int]
    stride: int

    def resolve(
        self, cache: DiskCache, watch: Callable[[int, int], None], say: Callable[[str], None]
    ) -> Self:
        """These settings with every open choice made, so that later loads read the same data.

        Downloads happen here; `watch` gets the progress (done, total), `say` a line about the result.
        """
        return self

    @abstractmethod
    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        """Raises DataError where there is nothing usable.

        Without `labels`, symbols with too few bars for a window or a label are kept: a forecast reports them
        itself.
        """

    def windows_of(self, bars: Bars, extra: ExtraColumns | None = None) -> Windows:
        """Windows of other bars and own columns with these settings, uncached. Raises ConfigError for ready
        windows."""
        raise ConfigError("data=windows brings no bars to make other windows of")


@dataclass(frozen=True)
class BarData(DataSettings):
    """The base of all sources of raw bars: windows of `lookback` bars, features, labels."""

    horizons: Horizons = field(default_factory=lambda: [3, 5, 10])
    lookback: Annotated[int, Field(ge=3, le=100_000)] = 120  # a fair value gap alone takes 3 bars
    stride: Count = 1
    market: bool = False
    timeframes: Annotated[list[str], Field(max_length=100)] = field(
        default_factory=lambda: ["1d", "1w", "2w", "1mo", "1q"]
    )

    def __post_init__(self) -> None:
        check_horizons(self.horizons)
        for timeframe in self.timeframes:
            parse_timeframe(timeframe)
        if len(set(self.timeframes)) < len(self.timeframes):
            raise ConfigError(f"data.timeframes={self.timeframes}: name each once")

    def windows_of(self, bars: Bars, extra: ExtraColumns | None = None) -> Windows:
        return self._windows(bars, DiskCache(None), labels=False, extra=extra)

    def own_inputs(self) -> set[str]:
        """The names of all context features that there are without the user's columns."""
        settings = FeatureSettings(tuple(self.timeframes), self.lookback, self.market)
        return {*context.feature_names(settings), *MARKET_NAMES, "embedding"}

    def _windows(
        self, bars: Bars, cache: DiskCache, labels: bool, extra: ExtraColumns | None = None
    ) -> BarWindows:
        settings = FeatureSettings(tuple(self.timeframes), self.lookback, self.market)
        key = key_of(bars.digest(), settings, code_of("data"))

        def computed() -> dict[str, NDArray[np.float32]]:
            features = context.context_features(bars, settings)
            return {"context": keep_windows(features, bars, self.lookback)}

        arrays = cache.arrays("features", key, computed)
        features = arrays["context"].astype(np.float32, copy=False)
        names = context.feature_names(settings)
        if extra is not None:
            of_windows = extra_features(bars, extra)[window_ends(bars, self.lookback)]
            features = np.concatenate([features, of_windows], axis=1)
            names += extra.settings.inputs
        windows = index_windows(bars, features, names, self.horizons, self.lookback)
        if extra is not None:
            names = tuple(extra.settings.static)
            windows = replace(
                windows, extra=extra, static_names=names, static=extra.category(windows.symbols)
            )
        if labels and not windows.labelled.any():
            raise DataError(
                f"no symbol has the {self.lookback} bars of data.lookback and the {min(self.horizons)} more "
                f"that a label of data.horizons needs"
            )
        return windows


def check_horizons(horizons: list[int]) -> None:
    """Raises ConfigError unless horizons are increasing numbers of bars."""
    try:
        increasing(list(horizons))
    except ValueError as error:
        raise ConfigError(f"data.horizons={horizons} {error}") from None


def located(path: str, key: str = "data.path") -> Path:
    """The path of a data set, which `key` names. Raises ConfigError where its name is not UTF-8 text."""
    found = expanded(path)
    try:
        str(found).encode()
    except UnicodeEncodeError:
        shown = str(found).encode("utf-8", "backslashreplace").decode()
        raise ConfigError(f"{key}={shown}: its name has bytes that are not UTF-8 text; rename it") from None
    return found
