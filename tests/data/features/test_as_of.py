"""Own columns at every bar: the last row that was known, never a later one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockenh.data.bars import Bars
from stockenh.data.extra import ExtraColumn, ExtraColumns, ExtraSettings
from stockenh.data.features.as_of import coverage, extra_features

DAY = np.timedelta64(86_400, "s")
START = np.datetime64("2024-01-01T00:00:00")  # a Monday


def bars_of(**days: list[int]) -> Bars:
    """Flat bars of each symbol on these days from the start; a list of lists makes several series."""
    series = []
    for name, offsets in days.items():
        runs = offsets if offsets and isinstance(offsets[0], list) else [offsets]
        series += [(name, START + np.array(run) * DAY, np.ones((len(run), 5))) for run in runs]
    return Bars.from_series(series)


def columns(rows: dict[str, list[tuple[float, float]]], **settings) -> ExtraColumns:
    """One column `x`: of each symbol (day, value), in order."""
    symbols = sorted(rows)
    sizes = [len(rows[name]) for name in symbols]
    flat = [row for name in symbols for row in rows[name]]
    time = np.array([START + np.timedelta64(round(86_400 * day), "s") for day, _ in flat], "datetime64[s]")
    column = ExtraColumn(np.cumsum([0, *sizes]), time, np.array([value for _, value in flat], np.float64))
    return ExtraColumns(ExtraSettings(past=["x"], **settings), tuple(symbols), (column,), ())


def joined(bars: Bars, extra: ExtraColumns) -> list[float | None]:
    """The value at every bar, None where missing; the mask must say the same."""
    value, mask = extra_features(bars, extra).T
    assert mask.tolist() == np.isnan(value).tolist()
    return [None if np.isnan(v) else float(v) for v in value]


@pytest.mark.parametrize(
    ("lag", "expected"), [(0, [None, 1, 1, 3]), (1, [None, None, 1, 1]), (4, [None] * 4), (9, [None] * 4)]
)
def test_a_bar_has_the_last_row_at_or_before_the_bar_a_lag_earlier(lag, expected):
    extra = columns({"A": [(1, 1), (3, 3), (8, 8)]}, lag=lag)
    assert joined(bars_of(A=[0, 1, 2, 3]), extra) == expected


def test_an_empty_cell_is_missing_and_lets_no_older_value_through():
    extra = columns({"A": [(0, 1), (1, np.nan), (3, 3)]}, lag=0)
    assert joined(bars_of(A=[0, 1, 2, 3]), extra) == [1, None, None, 3]


def test_a_row_is_missing_once_it_is_too_old():
    extra = columns({"A": [(0, 7)]}, lag=0, max_age=2)
    assert joined(bars_of(A=[0, 1, 2, 3]), extra) == [7, 7, 7, None]
    ageless = replace(extra, settings=ExtraSettings(["x"], lag=0, max_age=None))
    assert joined(bars_of(A=[0, 1, 2, 3]), ageless) == [7, 7, 7, 7]


def test_age_counts_weekdays_before_the_first_bar_and_in_a_gap():
    extra = columns({"A": [(-7, 5)]}, lag=0, max_age=5)
    assert joined(bars_of(A=[0, 1]), extra) == [5, None]
    gap = columns({"A": [(1, 5)]}, lag=0, max_age=5)
    assert joined(bars_of(A=[[0, 1], [70, 71]]), gap) == [None, 5, None, None]
    inside = columns({"A": [(67, 5)]}, lag=0, max_age=5)
    assert joined(bars_of(A=[[0, 1], [70, 71]]), inside) == [None, None, 5, 5]


def test_symbols_have_their_own_rows_and_one_without_rows_has_none():
    extra = columns({"A": [(0, 1)], "C": [(0, 3)], "D": [(0, 4)]}, lag=0)
    assert joined(bars_of(A=[0, 1], B=[0, 1], C=[0, 1]), extra) == [1, 1, None, None, 3, 3]


def test_on_daily_bars_a_row_belongs_to_its_date_and_the_last_of_a_day_counts():
    extra = columns({"A": [(0.4, 1), (0.7, 2)]}, lag=0)
    assert joined(bars_of(A=[0, 1]), extra) == [2, 2]
    hours = Bars.from_series([("A", START + np.arange(4) * DAY // 4, np.ones((4, 5)))])
    assert joined(hours, extra) == [None, None, 1, 2]


rows_of = st.lists(st.tuples(st.integers(-5, 40), st.sampled_from([np.nan, 1.0, 2.0, 3.0])), max_size=12)


@given(
    rows=rows_of,
    days=st.lists(st.integers(0, 30), min_size=1, max_size=15, unique=True),
    lag=st.integers(0, 4),
    seed=st.integers(0, 5),
    cut=st.integers(-5, 40),
)
def test_the_join_is_a_plain_search_and_never_sees_a_later_row(rows, days, lag, seed, cut):
    rows, days = sorted(rows, key=lambda row: row[0]), sorted(days)
    bars, extra = bars_of(A=days), columns({"A": rows}, lag=lag, max_age=None)
    plain = []
    for place in range(len(days)):
        known = [value for day, value in rows if place >= lag and day <= days[place - lag]]
        plain.append(None if not known or np.isnan(known[-1]) else known[-1])
    assert joined(bars, extra) == plain
    rng = np.random.default_rng(seed)
    other = columns({"A": [(d, v if d <= cut else rng.normal()) for d, v in rows]}, lag=lag, max_age=None)
    known = [place for place in range(len(days)) if place < lag or days[place - lag] <= cut]
    before, after = joined(bars, extra), joined(bars, other)
    assert [before[place] for place in known] == [after[place] for place in known]


def rules(bars: Bars, extra: ExtraColumns) -> dict[str, str]:
    return {f.rule: f"{f.level} {f.message}" for f in coverage(bars, extra, extra_features(bars, extra))}


def test_what_a_column_does_not_say_is_found():
    bars = bars_of(A=[0, 1, 2], B=[0, 1, 2])
    late = rules(bars, columns({"A": [(1, 1), (2, 2)]}, lag=0))
    assert "4 of 6 bars" in late["extra-missing"] and "2024-01-02" in late["extra-missing"]
    assert "1 symbols have none: B" in late["extra-missing"]
    assert "one value only" in rules(bars, columns({"A": [(0, 1)], "B": [(0, 1)]}))["extra-constant"]
    unknown = rules(bars, columns({"A": [(0, 1)], "Z": [(0, 1)]}))
    assert "Z" in unknown["extra-symbols"]
    for lag, word in ((3, "data.extra.lag=3"), (0, "other symbols")):
        empty = rules(bars, columns({"A" if lag else "Z": [(0, 1)]}, lag=lag))
        assert empty["extra-empty"].startswith("error") and word in empty["extra-empty"]


def categories(of: dict[str, str]) -> ExtraColumns:
    return ExtraColumns(ExtraSettings(static=["sector"]), tuple(of), (), (tuple(of.values()),))


def test_categories_are_counted_and_bounded():
    bars = bars_of(A=[0], B=[0], C=[0])
    assert categories({"B": "Tech"}).category(("A", "B")) == (("", "Tech"),)
    assert "2 symbols: A, C" in rules(bars, categories({"B": "Tech"}))["extra-missing"]
    assert rules(bars, categories({"Z": "Tech"}))["extra-empty"].startswith("error")
    many = {f"S{i}": f"category {i}" for i in range(1001)}
    crowd = bars_of(**{name: [0] for name in many})
    assert "1,001 categories" in rules(crowd, categories(many))["extra-categories"]
