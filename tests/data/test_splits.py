import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_bars import plain_windows

from stockenh.config.schema import settings_of
from stockenh.data.bars import Bars
from stockenh.data.splits import (
    DROPPED,
    TEST,
    TRAIN,
    VAL,
    CombinatorialPurged,
    DateSplit,
    Split,
    TrainOnly,
    WalkForward,
    every_date,
)
from stockenh.errors import ConfigError

LOOKBACK = 3


def day(number):
    return np.datetime64("2020-01-01", "s") + np.timedelta64(number, "D")


def windows_of(*calendars, horizons=(1, 2)):
    """Windows over bars that stand on these days; a name that comes twice has two series."""
    series = [
        (name, np.array([day(n) for n in numbers]), np.full((len(numbers), 5), 10.0))
        for name, numbers in calendars
    ]
    return plain_windows(Bars.from_series(series), LOOKBACK, horizons)


def assign(split, windows):
    """The part of every window; DROPPED where it has no label at all."""
    parts = np.full(len(windows), DROPPED, np.int8)
    rows = np.flatnonzero(windows.labelled)
    parts[rows] = split.assign(windows.asof[rows], lambda extra: windows.reach(rows, extra))
    return parts


def last_label(windows, row):
    """The last bar whose close decides a label of this window, found the slow way."""
    ends = [windows.end[row] + h for h in windows.horizons if windows.end[row] + h <= windows.last[row]]
    return windows.bars.time[max(ends)]


def numbers(windows, parts, part, symbol=None):
    """Days of the windows of a part, or of one symbol's, counted from the first day of January."""
    rows = (parts == part) & (symbol is None or windows.symbol == symbol)
    return ((windows.asof[rows] - day(0)) // np.timedelta64(1, "D")).tolist()


@st.composite
def markets(draw):
    """Symbols with their own starts, ends and holidays; one of them trades in two stretches."""
    calendars = []
    for name in ("A", "B", "C")[: draw(st.integers(1, 3))]:
        start, length = draw(st.integers(0, 40)), draw(st.integers(20, 100))
        every = draw(st.sampled_from([1, 1, 2, 5]))
        holidays = draw(st.sets(st.integers(start, start + length), max_size=25))
        own = [n for n in range(start, start + length, every) if n not in holidays]
        cut = draw(st.integers(0, len(own)))
        calendars += [(name, own[:cut]), (name, [n + 35 for n in own[cut:]])]
    return windows_of(*calendars, horizons=draw(st.sampled_from([(1,), (1, 4), (3, 5, 10)])))


def splits():
    share = st.floats(0.05, 0.4)
    embargo = st.integers(0, 6)
    by_date = st.builds(DateSplit, val=share, test=share, embargo=embargo)
    folds = st.tuples(st.integers(1, 4), st.integers(0, 3)).filter(lambda pair: pair[1] < pair[0])
    walk = st.tuples(folds, share, embargo).map(lambda t: WalkForward(*t[0], val=t[1], embargo=t[2]))
    return st.one_of(by_date, walk)


@settings(max_examples=150)
@given(markets(), splits())
def test_no_label_of_a_part_lies_in_a_later_part(windows, split):
    try:
        parts = assign(split, windows)
    except ConfigError:
        assume(False)
    for part, later in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
        begins = windows.asof[parts == later].min()
        for row in np.flatnonzero(parts == part):
            assert windows.asof[row] < begins
            assert last_label(windows, row) < begins
            own = windows.bars.time[
                np.array(windows.bars.symbols)[windows.bars.series_of_row]
                == windows.symbols[windows.symbol[row]]
            ]
            gap = ((own > last_label(windows, row)) & (own < begins)).sum()
            assert gap >= split.embargo or own.max() < begins


def cpcv(groups=6, test_groups=2, combination=0, val=0.15, embargo=0):
    return CombinatorialPurged(groups, test_groups, combination, val, embargo)


@st.composite
def combinations_of_groups(draw):
    groups = draw(st.integers(2, 6))
    test_groups = draw(st.integers(1, groups - 1))
    number = draw(st.integers(0, math.comb(groups, test_groups) - 1))
    return cpcv(groups, test_groups, number, draw(st.floats(0.05, 0.6)), draw(st.integers(0, 6)))


@settings(max_examples=200)
@given(markets(), st.one_of(combinations_of_groups(), splits()))
def test_no_label_of_a_part_meets_one_of_another_part(windows, split):
    """From the first bar of a window's label to its last, and the embargo on both sides."""
    try:
        parts = assign(split, windows)
    except ConfigError:
        assume(False)
    kept = windows.reach(np.arange(len(windows)), split.embargo)
    for part, other in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
        held_out = np.flatnonzero(parts == other)
        for row in np.flatnonzero(parts == part):
            assert not np.isin(windows.asof[row], windows.asof[held_out])
            before = held_out[windows.asof[held_out] < windows.asof[row]]
            after = held_out[windows.asof[held_out] > windows.asof[row]]
            assert all(last_label(windows, each) < windows.asof[row] for each in before)
            assert all(last_label(windows, row) < windows.asof[each] for each in after)
            assert (kept[before] < windows.asof[row]).all() and (kept[row] < windows.asof[after]).all()


def test_combinations_test_every_group_equally_often_and_purge_both_sides():
    windows = windows_of(("A", range(65)))  # dates 2 to 63, of which 61 carry both labels
    dates = 62
    tested = []
    for number in range(15):
        split = cpcv(combination=number)
        parts = assign(split, windows)
        of_date = split.group_of(dates)
        in_test = set(numbers(windows, parts, TEST))
        assert in_test == {day for day in range(2, 64) if of_date[day - 2] in split.tested()}
        tested.append(split.tested())
        assert not in_test & {*numbers(windows, parts, TRAIN), *numbers(windows, parts, VAL)}
    assert tested == [*combinations(range(6), 2)] and cpcv().combinations == 15 and cpcv().paths == 5
    sizes = np.bincount(cpcv().group_of(dates))
    assert sizes.max() - sizes.min() <= 1 and sizes.sum() == dates
    parts = assign(cpcv(test_groups=1, combination=2, embargo=1), windows)
    # group 2 holds the dates 23 to 32; labels take two bars, and the embargo one more
    of_train = numbers(windows, parts, TRAIN)
    assert numbers(windows, parts, TEST) == list(range(23, 33))
    assert max(day for day in of_train if day < 23) == 19 and min(d for d in of_train if d > 32) == 36
    assert min(numbers(windows, parts, VAL)) - max(of_train) == 4


def test_validation_may_lie_on_both_sides_of_a_test_block():
    windows = windows_of(("A", range(65)))
    parts = assign(cpcv(groups=3, test_groups=1, combination=1, val=0.6), windows)
    train, val, test = (numbers(windows, parts, part) for part in (TRAIN, VAL, TEST))
    assert max(train) < min(val) < min(test) < max(test) < max(val)
    assert not {min(test) - 1, min(test) - 2, max(test) + 1, max(test) + 2} & set(val)


def test_parts_are_shares_of_the_dates_and_without_cuts_every_labelled_window_trains():
    windows = windows_of(("A", range(43)), ("B", range(20, 43)), horizons=(1,))
    parts = assign(DateSplit(val=0.2, test=0.1), windows)
    # 40 dates have a labelled window, 2 to 41: 28 for train, 8 for validation, 4 for the test.
    assert np.unique(parts[windows.symbol == 0], return_counts=True)[1].tolist() == [3, 27, 7, 4]
    assert numbers(windows, parts, VAL)[0] == 30
    assert numbers(windows, parts, TEST) == [38, 39, 40, 41] * 2
    windows = windows_of(("A", range(43)), ("B", range(20, 43)), horizons=(1, 4))
    assert TrainOnly().parts == ("train",)
    np.testing.assert_array_equal(assign(TrainOnly(), windows) == TRAIN, windows.labelled)


@pytest.mark.parametrize(("embargo", "last", "val"), [(0, 10, [13, 14, 15]), (2, 8, [13])])
def test_labels_before_the_cut_are_kept_and_the_embargo_leaves_out_more_bars(embargo, last, val):
    windows = windows_of(("A", range(24)))
    parts = assign(DateSplit(val=0.25, test=0.25, embargo=embargo), windows)
    # Dates 2 to 22; validation begins on day 13, the test on day 18.
    found = [numbers(windows, parts, part) for part in (TRAIN, VAL, TEST)]
    assert found == [list(range(2, last + 1)), val, [18, 19, 20, 21, 22]]


def test_the_purge_counts_each_symbols_own_bars():
    windows = windows_of(("A", range(40)), ("B", range(0, 40, 2)), horizons=(3,))
    parts = assign(DateSplit(val=0.3, test=0.3), windows)
    begins = min(numbers(windows, parts, VAL))
    of_a, of_b = (numbers(windows, parts, TRAIN, symbol) for symbol in (0, 1))
    assert max(of_a) == begins - 4
    assert begins - 8 <= max(of_b) < begins - 6


@pytest.mark.parametrize(("embargo", "last"), [(0, 11), (1, 9)])
def test_a_symbol_that_ends_before_the_cut_keeps_the_windows_whose_labels_it_has(embargo, last):
    windows = windows_of(("A", range(24)), ("B", range(13)))
    parts = assign(DateSplit(val=0.25, test=0.25, embargo=embargo), windows)
    assert max(numbers(windows, parts, TRAIN, 1)) == last


def test_a_gap_right_before_the_cut_hides_no_label():
    windows = windows_of(("A", range(24)), ("B", range(14)), ("B", range(50, 70)))
    rows = np.flatnonzero(windows.labelled & (windows.symbol == 1) & (windows.asof < day(14)))
    assert windows.reach(rows, 0).tolist() == [day(min(n + 2, 13)).tolist() for n in range(2, 13)]
    # With the test from day 14 on, B's last label before its gap is on day 13, and it is kept.
    parts = assign(Fixed(np.array([day(12), day(14), day(99)])), windows)
    assert max(numbers(windows, parts, VAL, 1)) == 12


@dataclass(frozen=True)
class Fixed(Split):
    """Parts that end at these times."""

    ends: np.ndarray
    embargo = 0

    def part_of(self, dates):
        return np.searchsorted(self.ends, dates, side="right").astype(np.int8)


def test_walk_forward_tests_tile_the_later_dates_and_train_expands():
    windows = windows_of(("A", range(106)), horizons=(1,))
    tested, train_sizes = [], []
    for fold in range(5):
        parts = assign(WalkForward(folds=5, fold=fold, val=0.2), windows)
        train, val, test = (numbers(windows, parts, part) for part in (TRAIN, VAL, TEST))
        assert 2 == min(train) <= max(train) < min(val) <= max(val) < min(test)
        tested += test
        train_sizes.append(len(train))
    # 103 dates, 2 to 104, in a first block of 18 and five test blocks of 17.
    assert tested == list(range(20, 105))
    assert train_sizes == sorted(set(train_sizes))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DateSplit, {"val": 0.6, "test": 0.4}, r"split\.val=0\.6 and split\.test=0\.4"),
        (DateSplit, {"val": 0.0}, r"split\.val=0\.0 must be above 0"),
        (DateSplit, {"test": float("nan")}, r"split\.test=nan is not a number"),
        (DateSplit, {"embargo": -1}, r"split\.embargo=-1 must be at least 0"),
        (WalkForward, {"folds": 3, "fold": 3}, r"split\.fold=3 must be from 0 to .* 2"),
        (WalkForward, {"fold": -1}, r"split\.fold=-1 must be from 0"),
        (WalkForward, {"folds": 0}, r"split\.folds=0 must be at least 1"),
        (WalkForward, {"val": 1.0}, r"split\.val=1\.0 must be below 1"),
        (CombinatorialPurged, {"combination": 15}, r"split\.combination=15 must be from 0 to 14"),
        (CombinatorialPurged, {"combination": -1}, r"split\.combination=-1 must be at least 0"),
        (CombinatorialPurged, {"test_groups": 6}, r"split\.test_groups=6 must be below split\.groups=6"),
        (CombinatorialPurged, {"groups": 1}, r"split\.groups=1 must be at least 2"),
        (CombinatorialPurged, {"embargo": -1}, r"split\.embargo=-1 must be at least 0"),
    ],
)
def test_impossible_settings_are_refused_by_name(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        settings_of("split", kind, values)


@pytest.mark.parametrize(
    ("split", "bars", "message"),
    [
        (DateSplit(), 5, r"^split: 2 dates with labelled windows.*data\.lookback or data\.horizons"),
        (DateSplit(test=0.01), 33, r"split\.test=0\.01.* leave no test windows: there are 30 dates"),
        (DateSplit(val=0.01), 33, r"split\.val=0\.01.* leave no val windows"),
        (DateSplit(val=0.49, test=0.5, embargo=0), 33, r"split\.val=0\.49.* leave no train windows"),
        (DateSplit(embargo=30), 33, r"split\.embargo=30 leave no train windows.*data\.horizons is purged"),
        (CombinatorialPurged(groups=20), 12, r"split\.groups=20 is more than the 9 dates"),
        (CombinatorialPurged(embargo=30), 33, r"split\.groups=6.* leave no train windows"),
        (WalkForward(folds=40, fold=2), 33, r"split\.folds=40 split\.fold=2.* leave no"),
    ],
)
def test_parts_without_windows_are_refused_by_name(split, bars, message):
    with pytest.raises(ConfigError, match=message):
        assign(split, windows_of(("A", range(bars)), horizons=(1,)))


@pytest.mark.parametrize("stride", [1, 2, 5, 100])
def test_a_stride_keeps_every_window_of_each_kept_date(stride):
    windows = windows_of(("A", range(16)), ("B", range(2, 16)), ("C", range(16)))
    asof = windows.asof[windows.labelled]
    rows = every_date(asof, stride)
    days = np.unique(asof)
    assert np.unique(asof[rows]).tolist() == days[::stride].tolist()
    assert np.isin(asof, days[::stride]).sum() == len(rows)


def test_intraday_windows_of_a_date_stay_together():
    asof = np.array(["2024-01-01T10", "2024-01-02T10", "2024-01-01T16", "2024-01-03T10"], "datetime64[s]")
    assert every_date(asof, 2).tolist() == [0, 2, 3]
