"""Rules that leave single bars out. Each looks at one row only, so no bar depends on a later one.

Legend: n rows of one symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, HIGH, LOW, OPEN, VOLUME
from stockenh.data.findings import Finding, Mask, Rows

NOISE: Final = 1e-6  # relative; exports that pass through float32 put high 1e-8 below close
SLACK: Final = 5e-3  # relative; an open or close further outside the bar's range is not rounding
SHIFT: Final = 5.0
MAX_PRICE: Final = 1e15
HIGH_PRICE: Final = 1e9  # above it a price needs other bars near it; Merval, without a volume, passed 1e6
HIGH_UNTRADED_PRICE: Final = 1e6
LEVEL_FACTOR: Final = 100.0
MAX_FACTOR: Final = 1e12  # funds with a reverse split every year reach 1e9
MAX_VOLUME: Final = 1e15  # coins of the smallest price reach 1e13 a day


@dataclass(frozen=True)
class Reason:
    """Why rows are left out: a rule's name, `what` completes "3 rows left out: ...", and the fix.

    harmless: may hit most of a file's rows, which never held a bar
    """

    name: str
    what: str
    fix: str
    harmless: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class RowRule(Reason):
    """A reason visible in the row itself: `test` gives the mask (n,) of the rows to leave out."""

    test: Callable[[Rows], Mask]


def drop_rows(rows: Rows, symbol: str) -> tuple[Rows, tuple[Finding, ...]]:
    """Leaves out the rows that a row rule rejects; nothing is kept where a finding is an error."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        hits = [(rule, rule.test(rows)) for rule in ROW_RULES]
    alive, found = leave_out(hits, rows, symbol)
    return rows if alive.all() else rows.take(alive), found


def leave_out(
    hits: Iterable[tuple[Reason, Mask]], rows: Rows, symbol: str
) -> tuple[Mask, tuple[Finding, ...]]:
    """The rows (n,) that no reason hits, and a finding per reason; a row counts under its first reason.

    Where one reason alone hits more than half of the rows, nothing is kept and its finding is an error,
    unless the reason is harmless.
    """
    found: list[Finding] = []
    alive = np.ones(len(rows), bool)
    for reason, mask in hits:
        hit = mask & alive
        if hit.any():
            found.append(_verdict(reason, rows, hit, symbol))
            alive &= ~hit
    if any(finding.level == "error" for finding in found):
        alive[:] = False
    return alive, tuple(found)


def _verdict(reason: Reason, rows: Rows, hit: Mask, symbol: str) -> Finding:
    count, total = int(hit.sum()), len(rows)
    if 2 * count > total and not reason.harmless:
        message = f"mostly unusable, {count} of {total} rows: {reason.what}"
        fix = f"check the column mapping (data.columns); {reason.fix}"
        return rows.finding("error", reason.name, hit, symbol, message, fix)
    message = f"{count} of {total} rows left out: {reason.what}"
    return rows.finding("drop", reason.name, hit, symbol, message, reason.fix)


def outside_range(ohlcv: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) how far open or close lies beyond [low, high], relative to that bound; 0 or less is inside."""
    above = np.maximum(ohlcv[:, OPEN], ohlcv[:, CLOSE]) / ohlcv[:, HIGH] - 1
    below = 1 - np.minimum(ohlcv[:, OPEN], ohlcv[:, CLOSE]) / ohlcv[:, LOW]
    return np.asarray(np.maximum(above, below))


def _any(mask: Mask) -> Mask:
    return np.asarray(mask.any(axis=1))


def _no_trades(rows: Rows) -> Mask:
    # A comparison with NaN is False, so "not above 0" holds for a missing value and for a 0.
    above = rows.ohlcv > 0
    return np.asarray(above[:, CLOSE] & ~_any(above[:, [OPEN, HIGH, LOW, VOLUME]]))


def _open_missing(rows: Rows) -> Mask:
    missing = np.isnan(rows.prices)
    return missing[:, OPEN] & ~_any(missing[:, HIGH:])


def _adj_close_absurd(rows: Rows) -> Mask:
    factor = rows.adjusted / rows.ohlcv[:, CLOSE]
    return np.asarray((factor < 1 / MAX_FACTOR) | (factor > MAX_FACTOR))


def high_priced(rows: Rows) -> Mask:
    """Rows (n,) with a price that few symbols reach."""
    high = rows.prices > HIGH_UNTRADED_PRICE
    if not high.any():
        return np.zeros(len(rows), bool)
    return _any(high & ((rows.volume == 0)[:, None] | (rows.prices > HIGH_PRICE)))


def _price_too_large(rows: Rows) -> Mask:
    """High prices far above the last usual bar before them; the first bars have only one after them."""
    high = high_priced(rows)
    if not high.any():
        return high
    level = np.where(high, np.nan, rows.ohlcv[:, CLOSE])
    usual = np.flatnonzero(level > 0)
    too_large = _any(rows.prices > MAX_PRICE)
    if not len(usual):
        return too_large
    usual = usual[np.argsort(rows.time[usual], kind="stable")]
    before = np.searchsorted(rows.time[usual], rows.time, side="right") - 1
    reference = level[usual[np.maximum(before, 0)]]
    return np.asarray(too_large | high & (rows.prices.max(axis=1) > LEVEL_FACTOR * reference))


def _decimal_shift(rows: Rows) -> Mask:
    low, below, above, high = np.sort(rows.prices, axis=1).T
    median = (below + above) / 2
    return np.asarray((high > SHIFT * median) | (low < median / SHIFT))


_REFETCH: Final = "fetch these dates again"
_READJUST: Final = "fetch adjusted prices again, or set data.adjust=false to use prices as they were traded"

ROW_RULES: Final = (
    RowRule(
        "infinite-value",
        "a price or volume is infinite",
        "a division by 0 went into the export: fetch these dates again",
        lambda rows: _any(np.isinf(rows.ohlcv)) | np.isinf(rows.adjusted),
    ),
    RowRule(
        "no-trades",
        "close only, with volume 0: a day without trades",
        "nothing to do, the day had no bar",
        _no_trades,
        harmless=True,
    ),
    RowRule("open-missing", "only the open is missing", _REFETCH, _open_missing),
    RowRule("price-missing", "a price is missing", _REFETCH, lambda rows: _any(np.isnan(rows.prices))),
    RowRule(
        "volume-missing",
        "prices but no volume",
        "fetch these dates again, or write 0 where nothing was traded",
        lambda rows: np.isnan(rows.volume),
    ),
    RowRule("price-not-positive", "a price is 0 or below", _REFETCH, lambda rows: _any(rows.prices <= 0)),
    RowRule(
        "adj-close-not-positive",
        "the adjusted close is missing, 0 or below",
        _READJUST,
        lambda rows: ~(rows.adjusted > 0),
    ),
    RowRule(
        "adj-close-absurd",
        f"the adjusted close is more than {MAX_FACTOR:.0e} times off the close",
        _READJUST,
        _adj_close_absurd,
    ),
    RowRule("volume-negative", "the volume is below 0", _REFETCH, lambda rows: rows.volume < 0),
    RowRule(
        "volume-too-large",
        f"a volume above {MAX_VOLUME:.0e}",
        "remove these rows, or map the right column: data.columns.volume=NAME",
        lambda rows: rows.volume > MAX_VOLUME,
    ),
    RowRule(
        "price-too-large",
        f"a price above {HIGH_PRICE:.0e}, or {HIGH_UNTRADED_PRICE:.0e} with volume 0, and {LEVEL_FACTOR:.0f} "
        f"times the bar before it, or above {MAX_PRICE:.0e}",
        "remove these rows, they are not prices",
        _price_too_large,
    ),
    RowRule(
        "decimal-shift",
        f"one price is more than {SHIFT:.0f} times off the others of its row (a shifted decimal point)",
        "correct that price, or fetch these dates again",
        _decimal_shift,
    ),
    RowRule(
        "high-below-low",
        "the high is below the low",
        _REFETCH,
        lambda rows: rows.ohlcv[:, HIGH] < rows.ohlcv[:, LOW] * (1 - NOISE),
    ),
    RowRule(
        "outside-range",
        f"open or close is more than {SLACK:.1%} outside low to high",
        "fetch these dates again; prices that are only partly adjusted look like this",
        lambda rows: outside_range(rows.ohlcv) > SLACK,
    ),
)
