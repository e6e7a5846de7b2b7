from __future__ import annotations

from dataclasses import replace

import numpy as np
from random_bars import smooth_series

from stockenh.data.bars import Bars

A = smooth_series(1, 4)
B = smooth_series(2, 3)


def test_series_are_joined_and_found_again() -> None:
    bars = Bars.from_series([("A", *A), ("B", *B)])
    assert bars.symbols == ("A", "B")
    assert bars.offsets.tolist() == [0, 4, 7]
    assert len(bars) == 7
    np.testing.assert_array_equal(bars.ohlcv[bars.rows(1)], B[1])
    np.testing.assert_array_equal(bars.time[bars.rows(0)], A[0])
    assert bars.series_of_row.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_no_series_are_no_bars() -> None:
    bars = Bars.from_series([])
    assert (len(bars), bars.ohlcv.shape, bars.offsets.tolist()) == (0, (0, 5), [0])
    assert bars.series_of_row.tolist() == []


def test_the_digest_tells_equal_bars_from_others() -> None:
    bars = Bars.from_series([("A", *A), ("B", *B)])
    assert Bars.from_series([("A", *A), ("B", *B)]).digest() == bars.digest()
    moved = bars.ohlcv.copy()
    moved[5, 4] += 1
    others = [
        replace(bars, ohlcv=moved),
        replace(bars, time=bars.time + np.timedelta64(1, "s")),
        replace(bars, symbols=("A", "C")),
        replace(bars, offsets=np.array([0, 3, 7])),
    ]
    assert len({bars.digest(), *(other.digest() for other in others)}) == 5
