"""What a bar's neighbours in its own series did: past returns for rules of thumb, the next one to be earned.

Legend: k windows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE
from stockenh.data.windows import SMALLEST_RETURN, BarWindows, StoredWindows, Windows


def past_moves(windows: Windows, rows: NDArray[np.int64], bars: int) -> NDArray[np.float64]:
    """(k,) return of close over the `bars` up to each window's last, at most those that the window holds.

    Of ready samples, whose prices came scaled, the change in units of the window's range: its sign is right.
    """
    bars = min(bars, windows.lookback - 1)
    if isinstance(windows, BarWindows):
        close, end = windows.bars.ohlcv[:, CLOSE], windows.end[rows]
        moved = close[end] / close[end - bars] - 1
    else:
        assert isinstance(windows, StoredWindows)
        close = windows.ohlcv_norm[rows, :, CLOSE].astype(np.float64)
        moved = close[:, -1] - close[:, -1 - bars]
    return np.where(np.abs(moved) < SMALLEST_RETURN, 0.0, moved)


def next_returns(windows: BarWindows, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,) return of close from each window's last bar to the next of its series; NaN where there is none."""
    close, end = windows.bars.ohlcv[:, CLOSE], windows.end[rows]
    there = end < windows.last[rows]
    after = np.minimum(end + 1, windows.last[rows])
    return np.where(there, close[after] / close[end] - 1, np.nan)
