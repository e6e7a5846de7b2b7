"""One check of a leakage audit, and what the whole of them says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.data.windows import BarWindows, Windows

PASS, FAIL, WARN, INFO, NOT_APPLICABLE = "pass", "FAIL", "warn", "info", "n/a"


@dataclass(frozen=True)
class Check:
    """A row of the audit.

    finding:  pass, FAIL (a leak), warn, info (a figure without a verdict), n/a
    measured: what was looked at and found, in words; advice: what to do about it
    figures:  the same as plain numbers
    """

    name: str
    finding: str
    measured: str
    advice: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def leaks(checks: Iterable[Check]) -> list[str]:
    """The names of the checks that found one."""
    return [check.name for check in checks if check.finding == FAIL]


def some(names: Iterable[str], most: int = 4) -> str:
    """The first few of many names: `a, b, c and 3 more`."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


NAME = "dates of windows"
_RUN = 5  # bars that make a fingerprint
_TELLING = 3  # of them must have a range, and not open and close at its ends
_STEPS = 100  # of a bar's range
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bar of a run is lost modulo 2**64
_CHANCE = 0.01  # of the test windows may look like others by accident


def fingerprints(x_price: NDArray[np.floating]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """(k, T - 4) a number for each five bars in a row of windows (k, T, 5), and whether it tells much."""
    opening, high, low, close = (x_price[:, :, c].astype(np.float64) for c in range(4))
    span = high - low
    ranged = span > 1e-4
    width = np.where(ranged, span, 1)
    at = [np.where(ranged, np.rint(_STEPS * (x - low) / width), 0) for x in (opening, close)]
    telling = ranged & ~np.logical_and(*((place <= 0) | (place >= _STEPS) for place in at))
    code = (at[0] * (2 * _STEPS) + at[1] + 1).astype(np.int64).astype(np.uint64)
    runs = x_price.shape[1] - _RUN + 1
    key = np.zeros((len(code), runs), np.uint64)
    told = np.zeros(key.shape, np.int64)
    for step in range(_RUN):
        key = (key + code[:, step : step + runs]) * _MULTIPLIER
        told += telling[:, step : step + runs]
    return key, told >= _TELLING


def check_dates(
    earlier: Iterable[NDArray[np.floating]], later: Iterable[NDArray[np.floating]], lookback: int
) -> Check:
    """No window of an earlier part holds the last bars of a window of a later one.

    earlier, later: chunks of windows (k, T, 5) of train and of test.
    """
    if lookback < 2 * _RUN:
        return Check(NAME, NOT_APPLICABLE, f"windows of {lookback} bars are too short to know again")
    last: list[NDArray[np.uint64]] = []
    for chunk in later:
        key, telling = fingerprints(chunk[:, -_RUN:])
        last.append(key[telling[:, 0], 0])
    asked = np.concatenate(last) if last else np.empty(0, np.uint64)
    known = np.unique(asked)
    seen = np.zeros(len(known), np.bool_)
    for chunk in earlier:
        key, telling = fingerprints(chunk)
        seen |= np.isin(known, key[telling])
    count = int(np.isin(asked, known[seen]).sum())
    figures = {"windows": len(asked), "found_in_train": count}
    if count > max(2, _CHANCE * len(asked)):
        return Check(
            NAME, FAIL,
            f"the last {_RUN} bars of {count:,} of {len(asked):,} test windows lie inside train windows, "
            f"which should have ended before them",
            "asof is not the date of a window's last bar: write that date, or a split by date is random",
            figures,
        )  # fmt: skip
    return Check(
        NAME, PASS, f"the last bars of {len(asked):,} test windows lie in no train window", "", figures
    )


PARTS_IN_TIME = ("train", "val", "test")
SHARE_OF_RANDOM = 0.1  # of the train windows: a slip at a cut concerns a horizon's worth of them at most

Rows = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Calendar:
    """Where each window stands among its symbol's own bars.

    time: (N,) of all bars, each symbol's together and rising; place, series_end, symbol_end: (n,) rows of
    `time`: a window's last bar, the last bar of its unbroken series, the last bar of its symbol
    """

    time: NDArray[np.datetime64]
    place: NDArray[np.int64]
    series_end: NDArray[np.int64]
    symbol_end: NDArray[np.int64]

    @classmethod
    def of(cls, windows: Windows) -> Calendar:
        """Of bars where there are any; else a symbol's distinct dates count as its bars."""
        if isinstance(windows, BarWindows):
            return cls._of_bars(windows)
        keys = np.stack([windows.symbol.astype(np.int64), windows.asof.astype(np.int64)], 1)
        distinct, place = np.unique(keys, axis=0, return_inverse=True)
        end = np.searchsorted(distinct[:, 0], windows.symbol, side="right") - 1
        return cls(distinct[:, 1].astype("datetime64[s]"), place.reshape(-1), end, end)

    @classmethod
    def _of_bars(cls, windows: BarWindows) -> Calendar:
        last_of: dict[str, int] = {}
        for name, stop in zip(windows.bars.symbols, windows.bars.offsets[1:], strict=True):
            last_of[name] = int(stop) - 1  # a symbol's series follow each other
        ends = np.array([last_of[name] for name in windows.symbols], np.int64)
        return cls(windows.bars.time, windows.end, windows.last, ends[windows.symbol])

    def label_ends(self, horizon: int, embargo: int) -> NDArray[np.datetime64]:
        """(n,) time of the last bar that a label uses, and `embargo` bars on; of the last where bars end."""
        label = np.minimum(self.place + horizon, self.series_end)
        return np.asarray(self.time[np.minimum(label + embargo, self.symbol_end)])


def check_split(windows: Windows, rows: Rows, embargo: int) -> Check:
    """Parts follow each other, no label reaches into a later one, and the embargo is kept."""
    name = "split"
    parts = [part for part in PARTS_IN_TIME if part in rows]
    if len(parts) < 2:
        return Check(name, NOT_APPLICABLE, "the run held nothing out (split=all): there is no cut to cross")
    calendar, asof, longest = Calendar.of(windows), windows.asof, max(windows.horizons)
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
        random = late > SHARE_OF_RANDOM * len(rows[parts[0]])
        kind = "as in a random split" if random else "so the parts overlap in time"
        return Check(
            name, FAIL,
            f"{late:,} windows end in or after a part that should come later, {kind}; the labels of "
            f"{crossing:,} reach into one; {shared:,} windows stand in two parts",
            "split by date: split=by_date or split=walk_forward; what the test part says now is no forecast",
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
    gone = f" and {embargo} bars of embargo" if embargo else ""
    measured = f"{total:,} windows in date order, each label ({longest} bars{gone}) ends before the next part"
    return Check(name, PASS, measured, "", figures)


def is_random(check: Check) -> bool:
    """Whether the run's own parts lie mixed in time."""
    return bool(check.figures.get("out_of_order"))


def hashes(chunks: Iterable[tuple[NDArray[np.generic], ...]]) -> list[bytes | None]:
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


def check_duplicates(of_part: Mapping[str, list[bytes | None]]) -> Check:
    """Equal inputs in two parts. of_part: the hashes of each part's windows."""
    name = "duplicates"
    if len(of_part) < 2:
        return Check(name, NOT_APPLICABLE, "the run held nothing out (split=all): there is one part only")
    total = sum(map(len, of_part.values()))
    counts = {}
    for earlier, later in combinations([part for part in PARTS_IN_TIME if part in of_part], 2):
        known = set(of_part[earlier]) - {None}
        counts[f"{earlier} and {later}"] = sum(h in known for h in of_part[later])
    figures = {"windows": total, "equal": counts}
    if any(counts.values()):
        told = ", ".join(f"{count:,} of {where}" for where, count in counts.items() if count)
        return Check(
            name, FAIL, f"windows with equal inputs in two parts: {told}",
            "write each window once, with its own date; the model has seen these already", figures,
        )  # fmt: skip
    return Check(name, PASS, f"no two of {total:,} windows in different parts have equal inputs", "", figures)


def check_overlap(windows: Windows, rows: Rows) -> Check:
    """How many test windows share bars with a train window: information, for labels do not."""
    name = "shared bars"
    if not {"train", "test"} <= rows.keys():
        return Check(name, NOT_APPLICABLE, "the run has no test part")
    calendar = Calendar.of(windows)
    newest = np.full(len(windows.symbols), -1, np.int64)
    train, test = rows["train"], rows["test"]
    np.maximum.at(newest, windows.symbol[train], calendar.place[train])
    begin = calendar.place[test] - windows.lookback + 1
    count = int((begin <= newest[windows.symbol[test]]).sum())
    measured = (
        f"{count:,} of {len(test):,} test windows begin with bars that end a train window: seen bars are "
        f"no leak, seen labels would be"
    )
    return Check(name, INFO, measured, "", {"windows": len(test), "sharing": count})
