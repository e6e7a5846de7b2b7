"""Bars in memory that tests make up."""

from __future__ import annotations

import numpy as np

from stockenh.data.bars import Bars


def walks(bars: int, symbols: int) -> Bars:
    """Random walks of some symbols over the same business days; more bars go on from fewer."""
    time = np.busday_offset("2020-01-01", np.arange(bars), roll="forward").astype("datetime64[s]")
    series = []
    for symbol in range(symbols):
        rng = np.random.default_rng(symbol)
        steps = rng.normal(size=(bars, 2))
        close = 50 * np.exp(0.02 * steps[:, :1].cumsum(0))
        ohlcv = np.hstack([close, close * 1.01, close * 0.99, close, np.exp(13 + steps[:, 1:])])
        series.append((f"S{symbol}", time, ohlcv))
    return Bars.from_series(series)
