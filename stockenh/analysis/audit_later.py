"""Whether what is known at a bar moves when later bars are others.

Legend: N bars of all series, n windows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stockenh.analysis.audit import FAIL, PASS, WARN, Check, some
from stockenh.data.bars import CLOSE, VOLUME, Bars

NAME = "later bars"
_LEVEL = 1.3  # so far from the last known close the other path begins, up or down: no swing outlives it
_DAILY = 0.02


def other_bars(bars: Bars, after: np.datetime64, seed: int) -> Bars:
    """The same bars up to `after`, and from there a random walk with valid bars and other volumes.

    Series go the other level up and down in turn. The times stay, so that windows keep their numbers.
    """
    ohlcv = bars.ohlcv.copy()
    for series in range(len(bars.symbols)):
        rows = bars.rows(series)
        known = int(np.searchsorted(bars.time[rows], after, side="right"))
        start = rows.start + known
        if start == rows.stop:
            continue
        own = bars.ohlcv[rows][: max(known, 1)]
        level = own[-1, CLOSE] * (_LEVEL if (seed + series) % 2 else 1 / _LEVEL)
        rng = np.random.default_rng([seed, series])
        ohlcv[start : rows.stop] = _walk(rng, rows.stop - start, level, float(np.median(own[:, VOLUME])))
    return replace(bars, ohlcv=ohlcv)


def _walk(rng: np.random.Generator, n: int, level: float, volume: float) -> NDArray[np.float64]:
    close = level * np.exp(rng.normal(0, _DAILY, n).cumsum())
    opening = close * np.exp(rng.normal(0, _DAILY / 2, n))
    up, down = np.exp(np.abs(rng.normal(0, _DAILY / 2, (2, n))))
    return np.column_stack(
        [
            opening,
            np.maximum(opening, close) * up,
            np.minimum(opening, close) / down,
            close,
            np.round((volume + 1) * np.exp(rng.normal(0, 0.7, n))),
        ]
    )


def moved_rows(before: NDArray[np.generic], after: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(n, F) whether two arrays of that shape differ, to the last bit."""
    bits = np.dtype(f"u{before.dtype.itemsize}")
    differ = np.ascontiguousarray(before).view(bits) != np.ascontiguousarray(after).view(bits)
    return np.asarray(differ.reshape(len(before), -1))


def judge(
    moved: dict[str, int], compared: int, dates: int, symbols: int, noticed: bool, stale: Sequence[str] = ()
) -> Check:
    """moved: by the name of an input or output, how many windows it moved in. noticed: whether what lies
    after a changed bar moved at all. stale: features that the run has otherwise than they are made now."""
    names = sorted((name for name, count in moved.items() if count), key=lambda name: -moved[name])
    looked = f"{compared:,} windows up to {dates} dates of {symbols} symbol(s), every later bar replaced"
    figures = {"windows": compared, "dates": dates, "moved": {name: moved[name] for name in names}}
    if names:
        told = some([f"{name} (in {moved[name]:,})" for name in names], 6)
        return Check(
            NAME,
            FAIL,
            f"{looked}: {told} moved",
            "these see bars that nobody has yet: find the shift, the fill or the missing delay in their code",
            figures,
        )
    if stale:
        return Check(
            NAME,
            WARN,
            f"{looked}: nothing moved, but the cache holds other values of {some(stale)} than the code makes",
            "the run did not learn from what was checked: empty the cache (cache_dir) and train anew",
            figures,
        )
    if not noticed:
        return Check(
            NAME,
            WARN,
            f"{looked}: nothing moved, but neither did anything after them",
            "the features seem not to be computed from these bars: the check could see nothing",
            figures,
        )
    return Check(NAME, PASS, f"{looked}: inputs and forecasts the same to the last bit", "", figures)
