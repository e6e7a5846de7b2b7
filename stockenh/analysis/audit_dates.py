"""Whether the dates of ready windows are those of their bars, told by the bars' own shapes.

A file of windows says when each ends. Where that is wrong (shuffled rows, a running number), a split by date
is a random one and nothing else shows it. Where a candle opens and closes between its low and high survives
any scaling of a window, so a few bars in a row are found again in every window that holds them.
Legend: k windows, T bars.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from stockenh.analysis.audit import FAIL, NOT_APPLICABLE, PASS, Check

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
