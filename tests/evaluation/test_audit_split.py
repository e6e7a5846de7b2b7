"""Order, purge and embargo counted by hand on a few bars."""

from __future__ import annotations

import numpy as np
import pytest
from random_walks import walks

from stockenh.data.windows import StoredWindows, index_windows
from stockenh.evaluation.leakage import Calendar, check_duplicates, check_overlap, check_split, hashes

BARS = walks(30, 2)
WINDOWS = index_windows(BARS, np.zeros((60, 1), np.float32), ("x",), (1, 3), 5)  # 26 windows a symbol
PLACE = np.tile(np.arange(4, 30), 2)  # the bar at which each window ends


def parts(train: int, val: tuple[int, int], test: tuple[int, int]) -> dict[str, np.ndarray]:
    """Windows by the bar at which they end: up to `train`, and from one bar to another, both included."""
    ranges = {"train": (0, train), "val": val, "test": test}
    return {name: np.flatnonzero(np.isin(PLACE, np.arange(a, b + 1))) for name, (a, b) in ranges.items()}


def test_a_label_that_ends_on_the_bar_before_the_next_part_passes():
    assert check_split(WINDOWS, parts(10, (14, 16), (20, 26)), embargo=0).finding == "pass"


@pytest.mark.parametrize(("train", "crossing"), [(11, 2), (13, 6)])
def test_labels_that_reach_over_a_cut_are_counted(train, crossing):
    found = check_split(WINDOWS, parts(train, (14, 16), (20, 26)), embargo=0)
    assert found.finding == "FAIL" and found.figures["labels_cross"] == crossing
    assert found.figures["out_of_order"] == 0 and "purge the 3 bars" in found.advice


def test_the_embargo_comes_after_the_label():
    assert check_split(WINDOWS, parts(8, (14, 14), (20, 26)), embargo=2).finding == "pass"
    found = check_split(WINDOWS, parts(9, (14, 14), (20, 26)), embargo=2)
    assert found.finding == "FAIL" and found.figures["in_embargo"] == 2
    assert found.figures["labels_cross"] == 0


def test_parts_out_of_order_and_windows_in_two_parts_are_counted():
    mixed = {"train": np.array([0, 20, 40]), "test": np.array([5, 20])}
    found = check_split(WINDOWS, mixed, embargo=0)
    assert found.finding == "FAIL" and "as in a random split" in found.measured
    assert found.figures["out_of_order"] == 2 and found.figures["in_two_parts"] == 1


def test_one_part_has_no_cut():
    assert check_split(WINDOWS, {"train": np.arange(52)}, embargo=0).finding == "n/a"


def test_a_symbol_counts_its_own_bars_or_where_there_are_none_its_own_dates():
    stored = StoredWindows(
        symbols=("A", "B"), symbol=np.array([1, 0, 0, 1, 0], np.int32),
        asof=np.array(["2020-01-09", "2020-01-03", "2020-01-01", "2020-01-01", "2020-01-08"], "M8[s]"),
        context=np.zeros((5, 1), np.float32), context_names=("x",), y_ret=np.zeros((5, 1), np.float32),
        horizons=(1,), lookback=5, ohlcv_norm=np.zeros((5, 5, 5), np.float32),
        embedding=np.zeros((5, 0), np.float32),
    )  # fmt: skip
    ends = Calendar.of(stored).label_ends(1, 0).astype("M8[D]").astype(str)
    assert ends.tolist() == ["2020-01-09", "2020-01-08", "2020-01-03", "2020-01-09", "2020-01-08"]
    days = Calendar.of(WINDOWS).label_ends(3, 2)
    np.testing.assert_array_equal(days, BARS.time[np.minimum(PLACE + 5, 29)])


def test_equal_windows_in_two_parts_are_counted_but_not_those_that_stand_still():
    prices = np.random.default_rng(0).normal(size=(4, 5, 5))
    prices[3] = 0
    context = np.ones((4, 2))
    one, two = ([*hashes([(prices[rows], context[rows])])] for rows in ([0, 1, 3], [2, 1, 3]))
    assert one[2] is None and one[1] == two[1]
    found = check_duplicates({"train": one, "test": two})
    assert found.finding == "FAIL" and found.figures["equal"] == {"train and test": 1}
    assert check_duplicates({"train": one[:1], "test": two}).finding == "pass"
    other = [*hashes([(prices[[1]], 2 * context[[1]])])]
    assert check_duplicates({"train": other, "test": two}).finding == "pass"


def test_test_windows_that_share_bars_with_train_are_counted():
    found = check_overlap(WINDOWS, parts(10, (12, 12), (13, 20)))
    # windows of five bars that end at 13 and 14 begin at 9 and 10
    assert found.finding == "info" and found.figures == {"windows": 16, "sharing": 4}
