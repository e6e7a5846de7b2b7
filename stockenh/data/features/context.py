"""The context features of every bar: timeframe alignment, smart-money structure, technical indicators.

Legend: N bars of all series together, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.features.smart_money import SMART_MONEY_NAMES, smart_money
from stockenh.data.features.technical import TECHNICAL_NAMES, technical
from stockenh.data.features.timeframes import alignment, parse_timeframe
from stockenh.errors import ConfigError

# A damaged bar (a price of 1e-100 beside one of 100) must not become an infinity in float32. Genuine
# values stay below about 100.
_LARGEST = 1e6
_ALIGNMENT = "align_"


@dataclass(frozen=True)
class FeatureSettings:
    """What the features depend on. Raises ConfigError for a bad timeframe or a lookback below 3 bars.

    timeframes: one alignment feature each
    lookback:   bars over which smart-money patterns are counted
    """

    timeframes: tuple[str, ...] = ("1d", "1w", "2w", "1mo", "1q")
    lookback: int = 120

    def __post_init__(self) -> None:
        for timeframe in self.timeframes:
            parse_timeframe(timeframe)
        if len(set(self.timeframes)) < len(self.timeframes):
            raise ConfigError(f"data.timeframes: each may appear once, got {', '.join(self.timeframes)}")
        if self.lookback < 3:
            raise ConfigError(f"data.lookback={self.lookback}: a fair value gap alone takes 3 bars")


def feature_names(settings: FeatureSettings) -> tuple[str, ...]:
    """Names of the F features, in the order of the columns of `context_features`."""
    alignments = tuple(f"{_ALIGNMENT}{timeframe}" for timeframe in settings.timeframes)
    return alignments + SMART_MONEY_NAMES + TECHNICAL_NAMES


def feature_family(name: str) -> str:
    """The group of features that a name belongs to; `other context` for one that is not of this package."""
    if name.startswith(_ALIGNMENT):
        return "timeframe alignment"
    if name in SMART_MONEY_NAMES:
        return "smart-money structure"
    return "technical" if name in TECHNICAL_NAMES else "other context"


def context_features(bars: Bars, settings: FeatureSettings) -> NDArray[np.float32]:
    """Features of every bar of every series, (N, F) float32, in the order of `feature_names`, all finite.

    Each series is computed by itself. Row t depends on the bars up to t of its series alone, to the last
    bit, and not on the units of price and volume.
    """
    features = np.empty((len(bars), len(feature_names(settings))), np.float32)
    for series in range(len(bars.symbols)):
        rows = bars.rows(series)
        if rows.stop > rows.start:
            features[rows] = _series_features(bars.time[rows], bars.ohlcv[rows], settings)
    return features


def _series_features(
    time: NDArray[np.datetime64], ohlcv: NDArray[np.float64], settings: FeatureSettings
) -> NDArray[np.float64]:
    columns = np.asfortranarray(ohlcv)  # every indicator reads whole columns
    aligned = [alignment(time, columns[:, CLOSE], timeframe) for timeframe in settings.timeframes]
    features = np.column_stack([*aligned, smart_money(columns, settings.lookback), technical(columns)])
    return np.clip(features, -_LARGEST, _LARGEST)
