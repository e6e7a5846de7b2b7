"""Rules that compare a bar with the symbol's other bars. They look ahead, so they only warn.

Legend: n bars of one symbol, strictly increasing in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, HIGH, LOW, OPEN
from stockenh.data.findings import Finding, Mask, Rows, first_few
from stockenh.data.readers.row_rules import HIGH_PRICE, HIGH_UNTRADED_PRICE, NOISE, high_priced, outside_range

Values = NDArray[np.float64]
_Warning = tuple[str, Mask, str, str]  # rule, the bars (n,) that it is about, message, fix

SPLIT_MOVE: Final = 1.4
SPLIT_TOLERANCE: Final = 0.03
SPIKE_MOVE: Final = 1.2
SPIKE_REST: Final = 0.25  # what may remain of a spike's log move on the next day
FAR_MOVE: Final = 0.4
STALE_BARS: Final = 20
ZERO_SHARE: Final = 0.1
FEW: Final = 5  # rows up to which their prices prove nothing

_SPLITS: Final = (
    *((n, 1) for n in (*range(2, 11), 15, 20, 25, 30, 40, 50, 100)),
    *((3, 2), (5, 2), (7, 2), (5, 3), (8, 5)),
)


def check_series(series: Rows, symbol: str) -> tuple[Finding, ...]:
    """All warnings about one symbol's bars, which an adjusted close has adjusted where there is one."""
    if not len(series):
        return ()
    with np.errstate(all="ignore"):
        warnings = [warning for check in _CHECKS for warning in check(series)]
    return tuple(
        series.finding("warning", rule, mask, symbol, message, fix)
        for rule, mask, message, fix in warnings
        if mask.any()
    )


def split_ratio(move: float) -> tuple[int, int] | None:
    """The split (new shares, old shares) whose price ratio old / new lies within 3% of `move`, if any."""
    for new, old in _SPLITS:
        if abs(move * new / old - 1) <= SPLIT_TOLERANCE:
            return new, old
        if abs(move * old / new - 1) <= SPLIT_TOLERANCE:
            return old, new
    return None


def spikes(close: Values) -> Mask:
    """(n,) closes that jump by more than 20% and return the next day to within a quarter of the move."""
    mask = np.zeros(len(close), bool)
    move = np.diff(np.log(close))
    there, both = move[:-1], move[:-1] + move[1:]
    mask[1:-1] = (np.abs(there) > np.log(SPIKE_MOVE)) & (np.abs(both) < SPIKE_REST * np.abs(there))
    return mask


def _jumps(series: Rows) -> list[_Warning]:
    """Split-like closes, then other large overnight moves; a spike and its return are neither."""
    close = series.ohlcv[:, CLOSE]
    spike = spikes(close)
    calm = ~(spike | np.roll(spike, 1))
    before = np.append(close[0], close[:-1])
    move, overnight = close / before, series.ohlcv[:, OPEN] / before
    large = np.abs(np.log(np.stack([move, overnight]))).min(axis=0) > np.log(SPLIT_MOVE)
    splits = [
        (int(row), ratio)
        for row in np.flatnonzero(calm & large)
        if (ratio := split_ratio(float(move[row])) or split_ratio(float(overnight[row])))
    ]
    is_split = np.zeros(len(close), bool)
    is_split[[row for row, _ in splits]] = True
    far = calm & ~is_split & (np.abs(overnight - 1) > FAR_MOVE)
    far[0] = False
    return [
        *_split_warnings(series, splits),
        (
            "overnight-jump",
            far,
            f"overnight moves beyond {FAR_MOVE:.0%}: a spin-off, a halt or a bad print",
            "compare with another source; adjust earlier prices if it was a spin-off",
        ),
        (
            "spike",
            spike,
            f"a one-day move beyond {SPIKE_MOVE - 1:.0%} that is gone the next day: likely a bad print",
            "compare with another source and correct the file; nothing was changed",
        ),
    ]


def _split_warnings(series: Rows, splits: list[tuple[int, tuple[int, int]]]) -> list[_Warning]:
    if not splits:
        return []
    mask = np.zeros(len(series.time), bool)
    mask[[row for row, _ in splits]] = True
    listed = first_few([f"{new}:{old} on {str(series.time[row])[:10]}" for row, (new, old) in splits])
    if series.adj_close is not None:
        message = f"the adjusted close itself jumps like a split: {listed}"
        return [("adjusted-split", mask, message, "wrong split factor: fetch adjusted prices again")]
    message = f"the close jumps like an unadjusted split or bonus: {listed}"
    fix = "use split-adjusted prices, or name an adjusted close: data.columns.adj_close=NAME"
    return [("raw-split", mask, message, fix)]


def _outside(series: Rows) -> list[_Warning]:
    message = "open or close lies a little outside low to high (rounding); kept as it is"
    return [("range-rounding", outside_range(series.ohlcv) > NOISE, message, "nothing to do")]


def _high(series: Rows) -> list[_Warning]:
    message = (
        f"prices above {HIGH_PRICE:.0e}, or above {HIGH_UNTRADED_PRICE:.0e} with volume 0; kept as they are"
    )
    return [("price-high", high_priced(series), message, "nothing to do if they are prices, as of an index")]


def _copied_back(series: Rows) -> list[_Warning]:
    prices = series.prices
    mask = np.zeros(len(prices), bool)
    moved = prices[:-1, HIGH] > prices[:-1, LOW]
    mask[:-1] = (np.diff(prices, axis=0) == 0).all(1) & moved
    message = "all four prices equal the next day's: that day was probably copied back"
    return [("copied-bar", mask, message, "compare with another source; nothing was changed")]


def _stale(series: Rows) -> list[_Warning]:
    """Long runs of one close, and many exact zero returns."""
    close = series.ohlcv[:, CLOSE]
    same = np.append(False, np.diff(close) == 0)
    run = np.cumsum(~same) - 1
    length = np.bincount(run)[run]
    share = float(same[1:].mean()) if len(close) > STALE_BARS else 0.0
    return [
        (
            "stale-close",
            length >= STALE_BARS,
            f"the same close for {int(length.max())} bars in a row",
            "the symbol was halted or hardly traded: cut the file there or leave it out",
        ),
        (
            "zero-returns",
            same & (share > ZERO_SHARE),
            f"{share:.0%} of daily returns are exactly 0 (tick-rounded prices or few trades)",
            "ties are neither up nor down: use finer prices, or leave the early years out",
        ),
    ]


def _weekend(series: Rows) -> list[_Warning]:
    weekend = ~np.is_busday(series.time.astype("datetime64[D]"))
    message = "sessions on a Saturday or Sunday; kept"
    return [("weekend", weekend, message, "nothing to do if real; else check the date order")]


_CHECKS: Final[tuple[Callable[[Rows], list[_Warning]], ...]] = (
    _jumps,
    _outside,
    _high,
    _copied_back,
    _stale,
    _weekend,
)
