"""Leaks between parts: windows recognised by their bars, and order, purge and embargo counted by hand."""

import numpy as np
import pytest
import torch
from random_walks import walks

from stockenh.commands.audit.checks import calendar_of
from stockenh.data.prices import normalise
from stockenh.data.windows import StoredWindows, index_windows
from stockenh.evaluation.leakage import (
    Check,
    check_dates,
    check_duplicates,
    check_overlap,
    check_split,
    fingerprints,
    window_hashes,
)

RNG = np.random.default_rng(0)


def candles(n: int) -> np.ndarray:
    close = 50 * np.exp(RNG.normal(0, 0.02, n).cumsum())
    opening = close * np.exp(RNG.normal(0, 0.01, n))
    high = np.maximum(opening, close) * np.exp(np.abs(RNG.normal(0, 0.01, n)))
    low = np.minimum(opening, close) * np.exp(-np.abs(RNG.normal(0, 0.01, n)))
    return np.column_stack([opening, high, low, close, np.ones(n)])


def windows(bars: np.ndarray, ends: range, length: int = 20) -> np.ndarray:
    raw = np.stack([bars[end - length + 1 : end + 1] for end in ends])
    return normalise(torch.from_numpy(raw.astype(np.float32))).numpy()


CANDLES = candles(300)


def test_the_same_bars_have_the_same_fingerprint_in_every_window():
    one, two = (fingerprints(windows(CANDLES, range(at, at + 1)))[0] for at in (100, 107))
    np.testing.assert_array_equal(one[0, 7:], two[0, :-7])
    assert len(np.unique(fingerprints(windows(CANDLES, range(20, 300)))[0][:, -1])) == 280


def test_windows_apart_in_time_pass_and_mixed_ones_are_caught():
    early, late = windows(CANDLES, range(20, 200)), windows(CANDLES, range(205, 300))
    assert check_dates([early], [late], 20).finding == "pass"
    mixed = np.concatenate([early, late])[RNG.permutation(275)]
    found = check_dates([mixed[:100], mixed[100:200]], [mixed[200:]], 20)
    assert found.finding == "FAIL" and found.figures["found_in_train"] > 60


def test_bars_without_a_shape_are_not_distinctive():
    flat = walks(60, 1).ohlcv  # open and close are the same share of the range at every bar
    flat[:, :4] = flat[:, 3:4]
    key, telling = fingerprints(windows(flat, range(20, 60)))
    assert not telling.any() and key.shape == (40, 16)
    found = check_dates([windows(flat, range(20, 40))], [windows(flat, range(40, 60))], 20)
    assert found.figures["windows"] == 0
    assert check_dates([], [], 8).finding == "n/a"


BARS = walks(30, 2)
WINDOWS = index_windows(BARS, np.zeros((60, 1), np.float32), ("x",), (1, 3), 5)  # 26 windows a symbol
CALENDAR = calendar_of(WINDOWS)
PLACE = np.tile(np.arange(4, 30), 2)  # the bar at which each window ends


def parts(train: int, val: tuple[int, int], test: tuple[int, int]) -> dict[str, np.ndarray]:
    """Windows by the bar at which they end: up to `train`, and from one bar to another, both included."""
    ranges = {"train": (0, train), "val": val, "test": test}
    return {name: np.flatnonzero(np.isin(PLACE, np.arange(a, b + 1))) for name, (a, b) in ranges.items()}


def split(rows: dict[str, np.ndarray], embargo: int = 0) -> Check:
    return check_split(CALENDAR, rows, longest=3, embargo=embargo)


@pytest.mark.parametrize(
    ("train", "val", "embargo", "crossing", "in_embargo"),
    [
        (10, (14, 16), 0, 0, 0),  # the label ends on the bar before the next part
        (11, (14, 16), 0, 2, 2),
        (13, (14, 16), 0, 6, 6),
        (8, (14, 14), 2, 0, 0),  # the embargo comes after the label
        (9, (14, 14), 2, 0, 2),
    ],
)
def test_labels_that_reach_over_a_cut_or_its_embargo_are_counted(train, val, embargo, crossing, in_embargo):
    found = split(parts(train, val, (20, 26)), embargo)
    assert found.finding == ("FAIL" if crossing or in_embargo else "pass")
    assert (found.figures["labels_cross"], found.figures["in_embargo"]) == (crossing, in_embargo)
    assert found.figures["out_of_order"] == 0
    assert ("purge the 3 bars" in found.advice) or not crossing


def test_parts_out_of_order_and_windows_in_two_parts_are_counted():
    mixed = {"train": np.array([0, 20, 40]), "test": np.array([5, 20])}
    found = split(mixed)
    assert found.finding == "FAIL" and "as in a random split" in found.measured
    assert found.figures["out_of_order"] == 2 and found.figures["in_two_parts"] == 1
    assert split({"train": np.arange(52)}).finding == "n/a"


@pytest.mark.parametrize(
    ("train", "embargo", "crossing", "in_embargo"),
    [
        ([4, 9, 20, 29], 0, 0, 0),  # labels of three bars on both sides of a test from 13 to 16
        ([4, 10, 20], 0, 2, 2),  # a window of each symbol
        ([4, 9, 19], 0, 2, 2),
        ([4, 9, 20], 1, 0, 4),
        ([4, 8, 21], 1, 0, 0),
    ],
)
def test_labels_that_meet_those_of_a_test_block_are_counted_on_both_sides(
    train, embargo, crossing, in_embargo
):
    rows = {"train": np.flatnonzero(np.isin(PLACE, train)), "test": np.flatnonzero(abs(PLACE - 14.5) < 2)}
    found = check_split(CALENDAR, rows, longest=3, embargo=embargo, in_order=False)
    assert found.finding == ("FAIL" if crossing or in_embargo else "pass")
    assert (found.figures["labels_cross"], found.figures["in_embargo"]) == (crossing, in_embargo)


def test_blocks_that_share_dates_or_windows_are_a_leak():
    mixed = {"train": np.array([0, 20, 46]), "test": np.array([5, 20])}
    found = check_split(CALENDAR, mixed, longest=3, embargo=0, in_order=False)
    assert found.finding == "FAIL" and "2 windows end on dates of another part" in found.measured
    assert found.figures["in_two_parts"] == 1 and found.figures["out_of_order"] == 2


def test_test_windows_share_bars_with_train_on_one_side_of_it_only():
    rows = {"train": np.flatnonzero(PLACE >= 20), "test": np.flatnonzero(PLACE < 17)}
    assert (
        check_overlap(CALENDAR, 5, rows).figures["sharing"] == 0
    )  # later windows hold test's bars as inputs


def test_a_symbol_counts_its_own_bars_or_where_there_are_none_its_own_dates():
    stored = StoredWindows(
        symbols=("A", "B"), symbol=np.array([1, 0, 0, 1, 0], np.int32),
        asof=np.array(["2020-01-09", "2020-01-03", "2020-01-01", "2020-01-01", "2020-01-08"], "M8[s]"),
        context=np.zeros((5, 1), np.float32), context_names=("x",), y_ret=np.zeros((5, 1), np.float32),
        horizons=(1,), lookback=5, ohlcv_norm=np.zeros((5, 5, 5), np.float32),
        embedding=np.zeros((5, 0), np.float32),
    )  # fmt: skip
    ends = calendar_of(stored).label_ends(1, 0).astype("M8[D]").astype(str)
    assert ends.tolist() == ["2020-01-09", "2020-01-08", "2020-01-03", "2020-01-09", "2020-01-08"]
    days = calendar_of(WINDOWS).label_ends(3, 2)
    np.testing.assert_array_equal(days, BARS.time[np.minimum(PLACE + 5, 29)])


def test_equal_windows_in_two_parts_are_counted_but_not_those_that_stand_still():
    prices = np.random.default_rng(0).normal(size=(4, 5, 5))
    prices[3] = 0
    context = np.ones((4, 2))
    one, two = ([*window_hashes([(prices[rows], context[rows])])] for rows in ([0, 1, 3], [2, 1, 3]))
    assert one[2] is None and one[1] == two[1]
    found = check_duplicates({"train": one, "test": two})
    assert found.finding == "FAIL" and found.figures["equal"] == {"train and test": 1}
    assert check_duplicates({"train": one[:1], "test": two}).finding == "pass"
    other = [*window_hashes([(prices[[1]], 2 * context[[1]])])]
    assert check_duplicates({"train": other, "test": two}).finding == "pass"


def test_test_windows_that_share_bars_with_train_are_counted():
    found = check_overlap(CALENDAR, 5, parts(10, (12, 12), (13, 20)))
    # windows of five bars that end at 13 and 14 begin at 9 and 10
    assert found.finding == "info" and found.figures == {"windows": 16, "sharing": 4}
