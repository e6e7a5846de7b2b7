"""Dates and numbers as public exports write them."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from stockenh.data.dates import parse_clock, parse_dates
from stockenh.data.numbers import parse_numbers, uses_decimal_comma


def times(*texts: str | None) -> list[str]:
    return [str(time) for time in parse_dates(pl.Series(texts, dtype=pl.String)).time]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02",
        " 2024-1-2 ",
        "2024/01/02",
        "20240102",
        "02-Jan-2024",
        "2-JAN-24",
        "02 January 2024",
        "Jan 2, 2024",
        "1/2/2024",
        "1/2/2024 12:00:00 AM",
        "1704153600",
        "1704153600000",
        "2024-01-02 00:00:00",
        "2024-01-02T00:00:00.000Z",
        "2024-01-02 00:00:00-05:00",
        "2024-01-02 00:00:00+05:30",
    ],
)
def test_every_form_gives_the_second_of_january(text: str) -> None:
    assert times(text) == ["2024-01-02T00:00:00"]


@pytest.mark.parametrize(
    "text", ["2024-02-30", "2024-13-01", "20241301", "32-Jan-2024", "soon", "", "12.5", "20240102153000"]
)
def test_what_is_no_date_stays_unread(text: str) -> None:
    assert times(text) == ["NaT"]


def test_the_time_of_day_is_kept_as_written() -> None:
    assert times("2024-01-02T16:00:00Z") == ["2024-01-02T16:00:00"]
    assert times("1/2/2024 4:05:06 PM") == ["2024-01-02T16:05:06"]


def test_a_part_above_twelve_decides_the_order_for_the_whole_column() -> None:
    assert times("04/01/1999", "13/01/1999") == ["1999-01-04T00:00:00", "1999-01-13T00:00:00"]
    assert times("1/4/1999", "1/13/1999") == ["1999-01-04T00:00:00", "1999-01-13T00:00:00"]


def test_the_order_under_which_dates_run_one_way_decides() -> None:
    column = pl.Series(["01/02/1999", "02/02/1999", "01/03/1999"])
    dates = parse_dates(column)
    assert [str(t)[:10] for t in dates.time] == ["1999-02-01", "1999-02-02", "1999-03-01"]
    assert not dates.ambiguous


def test_fewer_weekends_decide_where_both_orders_run_one_way() -> None:
    # 5 and 6 August 1999 were a Thursday and a Friday; 8 May 1999 was a Saturday.
    dates = parse_dates(pl.Series(["05/08/1999", "06/08/1999"]))
    assert [str(t)[:10] for t in dates.time] == ["1999-08-05", "1999-08-06"]
    assert not dates.ambiguous


def test_month_comes_first_where_nothing_decides() -> None:
    dates = parse_dates(pl.Series(["05/05/1999"]))
    assert dates.ambiguous


def test_mixed_offsets_keep_the_wall_clock_and_name_a_zone() -> None:
    dates = parse_dates(pl.Series(["2024-03-08 00:00:00-05:00", "2024-03-11 00:00:00-04:00"]))
    assert [str(t) for t in dates.time] == ["2024-03-08T00:00:00", "2024-03-11T00:00:00"]
    assert dates.zone == "-05:00"


def test_typed_timestamps_keep_their_own_wall_clock() -> None:
    utc = pl.Series([dt.datetime(2024, 1, 2, 5)]).dt.replace_time_zone("UTC")
    dates = parse_dates(utc.dt.convert_time_zone("America/New_York"))
    assert str(dates.time[0]) == "2024-01-02T00:00:00"
    assert dates.zone == "America/New_York"


def test_a_column_of_clock_times() -> None:
    clock = parse_clock(pl.Series(["000000", "153000", "09:31:05", "9x"]))
    assert clock.astype(int).tolist() == [0, 55_800, 34_265, 0]


def test_thousands_separators_currency_and_suffixes() -> None:
    parsed = parse_numbers(pl.Series(["999.5", "1,234.5", "12,34,567.8", "$1,000", "1.5M", "2K", " 7 "]))
    assert parsed.value.tolist() == [999.5, 1234.5, 1234567.8, 1000.0, 1.5e6, 2000.0, 7.0]
    assert not parsed.unreadable.any()


def test_marks_for_a_missing_number_are_not_unreadable() -> None:
    parsed = parse_numbers(pl.Series(["", "-", "null", "N/A", "NaN", None]))
    assert np.isnan(parsed.value).all()
    assert not parsed.unreadable.any()


def test_other_text_is_unreadable() -> None:
    parsed = parse_numbers(pl.Series(["1.0", "12,34", "0.205 Dividend", "1..2"]))
    assert parsed.unreadable.tolist() == [False, True, True, True]


def test_decimal_commas() -> None:
    column = pl.Series(["179,68", "1.234,5", "1,234"])
    assert uses_decimal_comma(column)
    assert not uses_decimal_comma(pl.Series(["1,234", "12,34,567"]))
    assert parse_numbers(column, decimal_comma=True).value.tolist() == [179.68, 1234.5, 1.234]
