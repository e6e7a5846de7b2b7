"""Dates as public exports write them."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from bar_files import cells_of, dates, finding, numbers, read_cells, rows

from stockenh.data.readers.dates import parse_clock, parse_dates

TODAY = np.datetime64("2026-06-01")


def parse(column):
    return parse_dates(column, TODAY)


SECOND_OF_JANUARY = [
    "2024-01-02", " 2024-1-2 ", "2024/01/02", "20240102", "02-Jan-2024", "2-JAN-24", "02 January 2024",
    "Jan 2, 2024", "1/2/2024", "1/2/2024 12:00:00 AM", "1704153600", "1704153600000",
    "2024-01-02 00:00:00", "2024-01-02T00:00:00.000Z", "2024-01-02 00:00:00-05:00",
    "2024-01-02 00:00:00+05:30",
]  # fmt: skip
NO_DATES = ["2024-02-30", "2024-13-01", "20241301", "32-Jan-2024", "soon", "", "12.5", "20240102153000"]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        *((text, "2024-01-02T00:00:00") for text in SECOND_OF_JANUARY),
        *((text, "NaT") for text in NO_DATES),
        # the time of day is kept as written
        ("2024-01-02T16:00:00Z", "2024-01-02T16:00:00"),
        ("1/2/2024 4:05:06 PM", "2024-01-02T16:05:06"),
    ],
)
def test_every_form_of_a_date_and_a_time_is_read(text, time):
    assert str(parse(pl.Series([text], dtype=pl.String)).time[0]) == time


@pytest.mark.parametrize(
    ("texts", "days", "ambiguous"),
    [
        # a part above twelve decides for the whole column
        (["04/01/1999", "13/01/1999"], ["1999-01-04", "1999-01-13"], False),
        (["1/4/1999", "1/13/1999"], ["1999-01-04", "1999-01-13"], False),
        # the order in which dates run one way
        (["01/02/1999", "02/02/1999", "01/03/1999"], ["1999-02-01", "1999-02-02", "1999-03-01"], False),
        # fewer weekends: 5 and 6 August 1999 were a Thursday and a Friday, 8 May 1999 was a Saturday
        (["05/08/1999", "06/08/1999"], ["1999-08-05", "1999-08-06"], False),
        # nothing decides: month first
        (["05/05/1999"], ["1999-05-05"], True),
    ],
)
def test_the_whole_column_decides_the_order_of_day_and_month(texts, days, ambiguous):
    found = parse(pl.Series(texts))
    assert ([str(time)[:10] for time in found.time], found.ambiguous) == (days, ambiguous)


def test_zones_and_columns_of_times_keep_the_wall_clock():
    texts = pl.Series(["2024-03-08 00:00:00-05:00", "2024-03-11 00:00:00-04:00"])
    typed = pl.Series([dt.datetime(2024, 3, 8, 5), dt.datetime(2024, 3, 11, 4)]).dt.replace_time_zone("UTC")
    typed = typed.dt.convert_time_zone("America/New_York")
    for column, zone in ((texts, "-05:00"), (typed, "America/New_York")):
        found = parse(column)
        assert [str(time) for time in found.time] == ["2024-03-08T00:00:00", "2024-03-11T00:00:00"]
        assert found.zone == zone
    clock = parse_clock(pl.Series(["000000", "153000", "09:31:05", "9x"]))
    assert clock.astype(int).tolist() == [0, 55_800, 34_265, 0]


@pytest.mark.parametrize(
    ("today", "text", "date"),
    [
        ("2026-06-01", "2-Jan-26", "2026-01-02"),
        ("2026-06-01", "2-Jan-27", "1927-01-02"),
        ("2026-06-01", "2-Jan-69", "1969-01-02"),
        ("2026-06-01", "1/13/66", "1966-01-13"),
        ("2026-06-01", "2-Jan-00", "2000-01-02"),
        ("2026-12-30", "2-Jan-27", "1927-01-02"),
        ("2026-12-31", "2-Jan-27", "2027-01-02"),
        ("2050-01-01", "2-Jan-27", "2027-01-02"),
    ],
)
def test_a_year_of_two_digits_is_never_one_after_tomorrow(today, text, date):
    assert str(parse_dates(pl.Series([text]), np.datetime64(today)).time[0]) == f"{date}T00:00:00"


@pytest.mark.parametrize("form", ["{}", "{}T09:30:00"])
def test_a_date_after_tomorrow_costs_its_row(tmp_path, form):
    cells = rows(30)
    cells[-2][0], cells[-1][0] = form.format("2026-06-02"), form.format("2026-06-03")
    result = read_cells(tmp_path, cells, max_gap_days=9999)  # as on 1 June 2026
    finding(result, "future-date", level="drop", rows=1, date="2026-06-03")
    assert str(result.bars.time[-1])[:10] == "2026-06-02"


def test_a_file_from_the_future_is_left_out_and_old_bars_keep_their_order(tmp_path):
    result = read_cells(tmp_path, cells_of(numbers(30), dates(30, "2120-01-01")))
    assert finding(result, "future-date", level="error") and len(result.bars) == 0
    days = dates(700, "1968-06-03")
    written = [np.datetime64(day).astype(dt.date).strftime("%d-%b-%y") for day in days]
    result = read_cells(tmp_path, cells_of(numbers(700), written))
    assert result.bars.time.astype("datetime64[D]").astype(str).tolist() == days
