"""Leaks between the parts of a data set: dates, labels and windows that two parts share.

Legend: n windows, k windows of a chunk, T bars of a window, N bars of all symbols.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

PASS, FAIL, WARN, INFO, NOT_APPLICABLE = "pass", "FAIL", "warn", "info", "n/a"
PARTS_IN_TIME = ("train", "val", "test")
SHARE_OF_RANDOM = 0.1  # of the train windows: a slip at a cut concerns a horizon's worth of them at most
_RUN = 5  # bars that make a fingerprint
_TELLING = 3  # of them must have a range, and not open and close at its ends
_STEPS = 100  # of a bar's range
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bar of a run is lost modulo 2**64
_CHANCE = 0.01  # of the test windows may look like others by accident

Rows = Mapping[str, NDArray[np.int64]]
Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Check:
    """A row of the audit.

    finding:  pass, FAIL (a leak), warn, info (a figure without a verdict), n/a
    measured: what was examined and found, in words; advice: what to do about it
    figures:  the same as plain numbers
    """

    name: str
    finding: str
    measured: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def leaks(checks: Iterable[Check]) -> list[str]:
    """The names of the checks that found one."""
    return [check.name for check in checks if check.finding == FAIL]


def first_few(names: Iterable[str], most: int = 4) -> str:
    """The first few of many names: `a, b, c and 3 more`."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def fingerprints(x_price: NDArray[np.floating]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """(k, T - 4) a number for each five bars in a row of windows (k, T, 5), and whether it is distinctive."""
    opening, high, low, close = (x_price[:, :, c].astype(np.float64) for c in range(4))
    span = high - low
    has_range = span > 1e-4
    width = np.where(has_range, span, 1)
    steps = [np.where(has_range, np.rint(_STEPS * (x - low) / width), 0) for x in (opening, close)]
    telling = has_range & ~np.logical_and(*((step <= 0) | (step >= _STEPS) for step in steps))
    code = (steps[0] * (2 * _STEPS) + steps[1] + 1).astype(np.int64).astype(np.uint64)
    runs = x_price.shape[1] - _RUN + 1
    key = np.zeros((len(code), runs), np.uint64)
    count = np.zeros(key.shape, np.int64)
    for start in range(_RUN):
        key = (key + code[:, start : start + runs]) * _MULTIPLIER
        count += telling[:, start : start + runs]
    return key, count >= _TELLING


def check_dates(
    earlier: Iterable[NDArray[np.floating]], later: Iterable[NDArray[np.floating]], lookback: int
) -> Check:
    """No window of an earlier part holds the last bars of a window of a later one.

    earlier, later: chunks of windows (k, T, 5) of train and of test.
    """
    name = "dates of windows"
    if lookback < 2 * _RUN:
        return Check(name, NOT_APPLICABLE, f"windows of {lookback} bars are too short to recognise")
    last = [np.empty(0, np.uint64)]
    for chunk in later:
        key, telling = fingerprints(chunk[:, -_RUN:])
        last.append(key[telling[:, 0], 0])
    wanted = np.concatenate(last)
    known = np.unique(wanted)
    found = np.zeros(len(known), np.bool_)
    for chunk in earlier:
        key, telling = fingerprints(chunk)
        found |= np.isin(known, key[telling])
    total, count = len(wanted), int(np.isin(wanted, known[found]).sum())
    figures = {"windows": total, "found_in_train": count}
    if count > max(2, _CHANCE * total):
        return Check(
            name, FAIL,
            f"the last {_RUN} bars of {count:,} of {total:,} test windows lie inside train windows, which "
            f"should have ended before them",
            "asof is not the date of a window's last bar: write that date, or a split by date is random",
            figures,
        )  # fmt: skip
    return Check(name, PASS, f"the last bars of {total:,} test windows lie in no train window", "", figures)


@dataclass(frozen=True)
class Calendar:
    """Where each window lies among its symbol's own bars.

    time: (N,) of all bars, each symbol's together and rising; last: (n,) index of a window's last bar;
    series_end, symbol_end: (n,) index of the last bar of its unbroken series, and of its symbol
    """

    time: NDArray[np.datetime64]
    last: NDArray[np.int64]
    series_end: NDArray[np.int64]
    symbol_end: NDArray[np.int64]

    def label_ends(self, horizon: int, embargo: int) -> NDArray[np.datetime64]:
        """(n,) time of the last bar that a label uses, and `embargo` bars on; of the last where bars end."""
        label = np.minimum(self.last + horizon, self.series_end)
        return np.asarray(self.time[np.minimum(label + embargo, self.symbol_end)])


def check_split(calendar: Calendar, rows: Rows, longest: int, embargo: int, in_order: bool = True) -> Check:
    """Parts follow each other, no label reaches into a later one, and the embargo is kept.

    longest: the largest horizon, in bars; in_order: False where train lies on both sides of test: no label of
    one part then overlaps with one of another.
    """
    name = "split"
    parts = [part for part in PARTS_IN_TIME if part in rows]
    if len(parts) < 2:
        return Check(name, NOT_APPLICABLE, "the run held nothing out (split=all): there is no cut to cross")
    if not in_order:
        return _check_apart(calendar, rows, parts, longest, embargo)
    asof = calendar.time[calendar.last]
    ends, kept = (calendar.label_ends(longest, bars) for bars in (0, embargo))
    late = crossing = close = shared = 0
    for earlier, later in combinations(parts, 2):
        begins, own = asof[rows[later]].min(), rows[earlier]
        late += int((asof[own] >= begins).sum())
        crossing += int((ends[own] >= begins).sum())
        close += int((kept[own] >= begins).sum())
        shared += len(np.intersect1d(own, rows[later]))
    total = sum(len(rows[part]) for part in parts)
    figures = {"windows": total, "out_of_order": late, "labels_cross": crossing, "in_embargo": close,
               "in_two_parts": shared, "embargo": embargo}  # fmt: skip
    if late or shared:
        is_random = late > SHARE_OF_RANDOM * len(rows[parts[0]])
        kind = "as in a random split" if is_random else "so the parts overlap in time"
        return Check(
            name, FAIL,
            f"{late:,} windows end in or after a part that should come later, {kind}; the labels of "
            f"{crossing:,} reach into one; {shared:,} windows are in two parts",
            "split by date: split=by_date or split=walk_forward; scores of this test part are no forecast",
            figures,
        )  # fmt: skip
    if crossing:
        return Check(
            name, FAIL,
            f"the labels of {crossing:,} windows reach over a cut into the next part",
            f"purge the {longest} bars of the largest horizon before each cut", figures,
        )  # fmt: skip
    if close:
        return Check(
            name, FAIL, f"{close:,} windows lie within split.embargo={embargo} bars of a cut",
            "leave out the embargo before each cut", figures,
        )  # fmt: skip
    gap = f" and {embargo} bars of embargo" if embargo else ""
    measured = f"{total:,} windows in date order, each label ({longest} bars{gap}) ends before the next part"
    return Check(name, PASS, measured, "", figures)


def _check_apart(calendar: Calendar, rows: Rows, parts: list[str], longest: int, embargo: int) -> Check:
    asof = calendar.time[calendar.last]
    ends, kept = (calendar.label_ends(longest, bars) for bars in (0, embargo))
    mixed = crossing = close = shared = 0
    for own, other in ((rows[a], rows[b]) for a, b in combinations(parts, 2)):
        mixed += int(np.isin(asof[own], asof[other]).sum())
        crossing += _meeting(asof[own], ends[own], asof[other], ends[other])
        close += _meeting(asof[own], kept[own], asof[other], kept[other])
        shared += len(np.intersect1d(own, other))
    total = sum(len(rows[part]) for part in parts)
    figures = {"windows": total, "out_of_order": mixed, "labels_cross": crossing, "in_embargo": close,
               "in_two_parts": shared, "embargo": embargo}  # fmt: skip
    if mixed or shared or crossing:
        return Check(
            "split", FAIL,
            f"the labels of {crossing:,} windows overlap with labels of another part; {mixed:,} windows end "
            f"on dates of another part; {shared:,} windows are in two parts",
            f"purge the {longest} bars of the largest horizon on both sides of each block", figures,
        )  # fmt: skip
    if close:
        return Check(
            "split", FAIL, f"{close:,} windows lie within split.embargo={embargo} bars of another part",
            "leave out the embargo on both sides of each block", figures,
        )  # fmt: skip
    gap = f" and {embargo} bars of embargo" if embargo else ""
    measured = f"{total:,} windows in blocks, no label ({longest} bars{gap}) meets one of another part"
    return Check("split", PASS, measured, "", figures)


def _meeting(begins: Times, ends: Times, other_begins: Times, other_ends: Times) -> int:
    """How many of these spans meet one of the others; both ends are included."""
    order = np.argsort(other_begins, kind="stable")
    latest = np.maximum.accumulate(other_ends[order])
    before = np.searchsorted(other_begins[order], ends, side="right") - 1
    return int((latest[np.maximum(before, 0)] >= begins)[before >= 0].sum())


def window_hashes(chunks: Iterable[tuple[NDArray[np.generic], ...]]) -> list[bytes | None]:
    """One hash per row of arrays that come in chunks, the first of them the prices (k, T, 5).

    None for a window whose prices stand still: there may be many equal ones in honest data.
    """
    found: list[bytes | None] = []
    for arrays in chunks:
        moving = np.ptp(arrays[0][:, :, :4], axis=(1, 2)) > 0
        for row, moves in enumerate(moving):
            content = b"".join(np.ascontiguousarray(array[row]).tobytes() for array in arrays)
            found.append(hashlib.blake2b(content, digest_size=16).digest() if moves else None)
    return found


def check_duplicates(hashes: Mapping[str, list[bytes | None]]) -> Check:
    """Equal inputs in two parts. hashes: those of each part's windows."""
    name = "duplicates"
    if len(hashes) < 2:
        return Check(name, NOT_APPLICABLE, "the run held nothing out (split=all): there is one part only")
    total = sum(map(len, hashes.values()))
    counts = {}
    for earlier, later in combinations([part for part in PARTS_IN_TIME if part in hashes], 2):
        known = set(hashes[earlier]) - {None}
        counts[f"{earlier} and {later}"] = sum(h in known for h in hashes[later])
    figures = {"windows": total, "equal": counts}
    if any(counts.values()):
        pairs = ", ".join(f"{count:,} of {parts}" for parts, count in counts.items() if count)
        return Check(
            name, FAIL, f"windows with equal inputs in two parts: {pairs}",
            "write each window once, with its own date; the model has seen these already", figures,
        )  # fmt: skip
    return Check(name, PASS, f"no two of {total:,} windows in different parts have equal inputs", "", figures)


def check_overlap(calendar: Calendar, lookback: int, rows: Rows) -> Check:
    """How many test windows share bars with a train window: information, for labels do not."""
    name = "shared bars"
    if not {"train", "test"} <= rows.keys():
        return Check(name, NOT_APPLICABLE, "the run has no test part")
    train, test = rows["train"], rows["test"]
    symbol = calendar.symbol_end  # one value for each symbol
    ordered = train[np.argsort(calendar.last[train])]
    newest = ordered[np.searchsorted(calendar.last[ordered], calendar.last[test], side="right") - 1]
    inside = (calendar.last[newest] > calendar.last[test] - lookback) & (
        calendar.last[newest] <= calendar.last[test]
    )
    count = int((inside & (symbol[newest] == symbol[test])).sum())
    measured = (
        f"{count:,} of {len(test):,} test windows begin with bars that end a train window: seen bars are "
        f"no leak, seen labels would be"
    )
    return Check(name, INFO, measured, "", {"windows": len(test), "sharing": count})
