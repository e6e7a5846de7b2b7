"""Bars after a date become others, and what moves with them is named."""

from __future__ import annotations

import numpy as np
import pytest
from random_walks import walks

from stockenh.evaluation.leakage_training import judge, moved_rows, other_bars

BARS = walks(60, 2)


@pytest.mark.parametrize("at", [0, 30, 58])
def test_bars_up_to_the_date_stay_and_every_later_one_is_another_valid_bar(at):
    date = BARS.time[at]
    other = other_bars(BARS, date, seed=1)
    known = BARS.time <= date
    assert (other.ohlcv[known] == BARS.ohlcv[known]).all()
    assert (other.ohlcv[~known] != BARS.ohlcv[~known]).all()
    opening, high, low, close, volume = other.ohlcv.T
    assert (high >= np.maximum(opening, close)).all() and (low <= np.minimum(opening, close)).all()
    assert (low > 0).all() and (volume >= 0).all() and np.isfinite(other.ohlcv).all()
    np.testing.assert_array_equal(other.time, BARS.time)


def test_one_series_goes_up_and_the_next_down_and_all_again_by_the_seed():
    for seed, signs in ((0, [-1, 1]), (1, [1, -1])):
        other = other_bars(BARS, BARS.time[30], seed)
        steps = [other.ohlcv[31 + 60 * s, 3] / other.ohlcv[30 + 60 * s, 3] - 1 for s in range(2)]
        assert np.sign(steps).tolist() == signs and min(map(abs, steps)) > 0.1


def test_a_series_that_begins_after_the_date_is_replaced_whole():
    other = other_bars(BARS, BARS.time[0] - np.timedelta64(1, "D"), seed=0)
    assert (other.ohlcv != BARS.ohlcv).all()


def test_differences_are_told_to_the_last_bit():
    before = np.array([[1.0, 0.0], [2.0, 3.0]], np.float32)
    after = before.copy()
    after[1, 0] = np.nextafter(np.float32(2), np.float32(3))
    assert moved_rows(before, after).tolist() == [[False, False], [True, False]]
    assert not moved_rows(before, before.copy()).any()


def test_what_moved_is_named_the_most_moved_first():
    found = judge({"rsi_14": 0, "swing": 7, "gap": 9}, 1000, 4, 2, noticed=True)
    assert found.finding == "FAIL" and "gap (in 9), swing (in 7) moved" in found.measured
    assert found.figures["moved"] == {"gap": 9, "swing": 7}
    assert judge({"rsi_14": 0}, 1000, 4, 2, noticed=True).finding == "pass"


def test_features_that_notice_no_bars_at_all_are_not_passed():
    assert judge({"rsi_14": 0}, 1000, 4, 2, noticed=False).finding == "warn"
