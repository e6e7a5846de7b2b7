"""Whether bars suffice for a split, before anything is trained on them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import numpy as np

from stockenh.data.bars import Bars
from stockenh.data.findings import Finding
from stockenh.data.splits import Split
from stockenh.data.windows import index_windows
from stockenh.errors import ConfigError

_MOST_BARS: Final = 5_000


def too_few_for(split: Split, bars: Bars, lookback: int, horizons: Sequence[int]) -> tuple[Finding, ...]:
    """A warning where the split would leave a part without windows, with the bars that it takes."""
    if _suffices(split, bars, lookback, horizons):
        return ()
    longest = int(np.diff(bars.offsets).max())
    needed = least_bars(split, lookback, horizons)
    takes = f"a symbol of {needed} bars" if needed else f"more than {_MOST_BARS} bars"
    settings = " ".join(f"split.{key}={value}" for key, value in vars(split).items())
    message = f"too few dates to train on with {settings}: it takes {takes}, the longest has {longest}"
    fix = "fetch a longer history, or lower data.lookback or data.horizons"
    return (Finding("warning", "too-few-dates", "", "", "", len(bars), message, fix),)


def least_bars(split: Split, lookback: int, horizons: Sequence[int]) -> int | None:
    """The fewest weekdays of one symbol that give every part a labelled window; None beyond 5,000."""
    monday = np.datetime64("2000-01-03")
    days = np.busday_offset(monday, np.arange(_MOST_BARS), roll="forward").astype("datetime64[s]")

    def suffices(n: int) -> bool:
        return _suffices(split, Bars.from_series([("", days[:n], np.ones((n, 5)))]), lookback, horizons)

    counts = range(lookback + min(horizons), _MOST_BARS + 1)
    at = bisect_left(counts, True, key=suffices)
    return counts[at] if at < len(counts) else None


def _suffices(split: Split, bars: Bars, lookback: int, horizons: Sequence[int]) -> bool:
    windows = index_windows(bars, np.empty((len(bars), 0), np.float32), (), horizons, lookback)
    labelled = np.flatnonzero(windows.labelled)
    try:
        split.assign(windows.asof[labelled], lambda extra: windows.reach(labelled, extra))
    except ConfigError:
        return False
    return True
