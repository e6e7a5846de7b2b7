"""Rules that leave single bars out. Each looks at one row only, so that no bar depends on a later one.

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
SLACK: Final = 5e-3  # relative; beyond it an open or close outside the bar's range is no rounding
SHIFT: Final = 5.0
MAX_PRICE: Final = 1e9
MAX_UNTRADED_PRICE: Final = 1e6
MAX_FACTOR: Final = 1e12  # funds with a reverse split every year reach 1e9
MAX_VOLUME: Final = 1e15  # coins of the smallest price reach 1e13 a day


@dataclass(frozen=True)
class Reason:
    """Why rows are left out: a rule's name, `what` completes "3 rows left out: ...", and the fix.

    harmless: even most of a file's rows may go for it, since they never held a bar
    """

    name: str
    what: str
    fix: str
    harmless: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class RowRule(Reason):
    """A reason that shows in the row itself: `test` gives the mask (n,) of the rows to leave out."""

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
    place, total = rows.place(hit), len(rows)
    if 2 * place.rows > total and not reason.harmless:
        message = f"mostly unusable, {place.rows} of {total} rows: {reason.what}"
        fix = f"check the column mapping (data.columns); {reason.fix}"
        return place.finding("error", reason.name, symbol, message, fix)
    message = f"{place.rows} of {total} rows left out: {reason.what}"
    return place.finding("drop", reason.name, symbol, message, reason.fix)


def _any(mask: Mask) -> Mask:
    hit: Mask = np.logical_or.reduce(mask, axis=1)
    return hit


def _prices(rows: Rows) -> NDArray[np.float64]:
    return rows.ohlcv[:, :VOLUME]


def _infinite(rows: Rows) -> Mask:
    hit = _any(np.isinf(rows.ohlcv))
    return hit if rows.adj_close is None else hit | np.isinf(rows.adj_close)


def _no_trades(rows: Rows) -> Mask:
    # A comparison with NaN is False, so "not above 0" holds for a missing value and for a 0.
    above = rows.ohlcv > 0
    return above[:, CLOSE] & ~_any(above[:, [OPEN, HIGH, LOW, VOLUME]])


def _open_missing(rows: Rows) -> Mask:
    missing = np.isnan(_prices(rows))
    return missing[:, OPEN] & ~_any(missing[:, HIGH:])


def _price_missing(rows: Rows) -> Mask:
    return _any(np.isnan(_prices(rows)))


def _volume_missing(rows: Rows) -> Mask:
    return np.isnan(rows.ohlcv[:, VOLUME])


def _price_not_positive(rows: Rows) -> Mask:
    return _any(_prices(rows) <= 0)


def _adj_close_not_positive(rows: Rows) -> Mask:
    return np.zeros(len(rows), bool) if rows.adj_close is None else ~(rows.adj_close > 0)


def _adj_close_absurd(rows: Rows) -> Mask:
    if rows.adj_close is None:
        return np.zeros(len(rows), bool)
    factor = rows.adj_close / rows.ohlcv[:, CLOSE]
    hit: Mask = (factor < 1 / MAX_FACTOR) | (factor > MAX_FACTOR)
    return hit


def _volume_negative(rows: Rows) -> Mask:
    hit: Mask = rows.ohlcv[:, VOLUME] < 0
    return hit


def _volume_too_large(rows: Rows) -> Mask:
    hit: Mask = rows.ohlcv[:, VOLUME] > MAX_VOLUME
    return hit


def _price_too_large(rows: Rows) -> Mask:
    untraded = rows.ohlcv[:, VOLUME] == 0
    prices = _prices(rows)
    hit: Mask = _any(prices > MAX_PRICE) | (_any(prices > MAX_UNTRADED_PRICE) & untraded)
    return hit


def _decimal_shift(rows: Rows) -> Mask:
    low, below, above, high = np.sort(_prices(rows), axis=1).T
    median = (below + above) / 2
    hit: Mask = (high > SHIFT * median) | (low < median / SHIFT)
    return hit


def _high_below_low(rows: Rows) -> Mask:
    hit: Mask = rows.ohlcv[:, HIGH] < rows.ohlcv[:, LOW] * (1 - NOISE)
    return hit


def outside_range(ohlcv: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) how far open or close lies beyond [low, high], relative to that bound; 0 or less is inside."""
    above = np.maximum(ohlcv[:, OPEN], ohlcv[:, CLOSE]) / ohlcv[:, HIGH] - 1
    below = 1 - np.minimum(ohlcv[:, OPEN], ohlcv[:, CLOSE]) / ohlcv[:, LOW]
    beyond: NDArray[np.float64] = np.maximum(above, below)
    return beyond


def _outside_range(rows: Rows) -> Mask:
    hit: Mask = outside_range(rows.ohlcv) > SLACK
    return hit


ROW_RULES: Final = (
    RowRule(
        "infinite-value",
        "a price or volume is infinite",
        "a division by 0 went into the export: fetch these dates again",
        _infinite,
    ),
    RowRule(
        "no-trades",
        "close only, with volume 0: a day without trades",
        "nothing to do, the day had no bar",
        _no_trades,
        harmless=True,
    ),
    RowRule("open-missing", "only the open is missing", "fetch these dates again", _open_missing),
    RowRule("price-missing", "a price is missing", "fetch these dates again", _price_missing),
    RowRule(
        "volume-missing",
        "prices but no volume",
        "fetch these dates again, or write 0 where nothing was traded",
        _volume_missing,
    ),
    RowRule("price-not-positive", "a price is 0 or below", "fetch these dates again", _price_not_positive),
    RowRule(
        "adj-close-not-positive",
        "the adjusted close is missing, 0 or below",
        "fetch adjusted prices again, or set data.adjust=false to use prices as they were traded",
        _adj_close_not_positive,
    ),
    RowRule(
        "adj-close-absurd",
        f"the adjusted close is more than {MAX_FACTOR:.0e} times off the close",
        "fetch adjusted prices again, or set data.adjust=false to use prices as they were traded",
        _adj_close_absurd,
    ),
    RowRule("volume-negative", "the volume is below 0", "fetch these dates again", _volume_negative),
    RowRule(
        "volume-too-large",
        f"a volume above {MAX_VOLUME:.0e}",
        "remove these rows, or map the right column: data.columns.volume=NAME",
        _volume_too_large,
    ),
    RowRule(
        "price-too-large",
        f"a price above {MAX_PRICE:.0e}, or above {MAX_UNTRADED_PRICE:.0e} with volume 0",
        "remove these rows, they are no prices",
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
        "fetch these dates again",
        _high_below_low,
    ),
    RowRule(
        "outside-range",
        f"open or close is more than {SLACK:.1%} outside low to high",
        "fetch these dates again; prices that are only partly adjusted look like this",
        _outside_range,
    ),
)
