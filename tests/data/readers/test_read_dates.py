"""Dates as public exports write them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bar_files import finding, read_cells, rows

from stockenh.data.readers.dates import Dates, parse_clock, parse_dates

TODAY = np.datetime64("2026-06-01")


def parse(column: pl.Series) -> Dates:
    return parse_dates(column, TODAY)


def times(*texts: str | None) -> list[str]:
    return [str(time) for time in parse(pl.Series(texts, dtype=pl.String)).time]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02", " 2024-1-2 ", "2024/01/02", "20240102", "02-Jan-2024", "2-JAN-24", "02 January 2024",
        "Jan 2, 2024", "1/2/2024", "1/2/2024 12:00:00 AM", "1704153600", "1704153600000",
        "2024-01-02 00:00:00", "2024-01-02T00:00:00.000Z", "2024-01-02 00:00:00-05:00",
        "2024-01-02 00:00:00+05:30",
    ],
)  # fmt: skip
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
def test_the_whole_column_decides_the_order_of_day_and_month(
    texts: list[str], days: list[str], ambiguous: bool
) -> None:
    dates = parse(pl.Series(texts))
    assert ([str(time)[:10] for time in dates.time], dates.ambiguous) == (days, ambiguous)


def test_mixed_offsets_keep_the_wall_clock_and_name_a_zone() -> None:
    dates = parse(pl.Series(["2024-03-08 00:00:00-05:00", "2024-03-11 00:00:00-04:00"]))
    assert [str(t) for t in dates.time] == ["2024-03-08T00:00:00", "2024-03-11T00:00:00"]
    assert dates.zone == "-05:00"


def test_typed_timestamps_keep_their_own_wall_clock() -> None:
    utc = pl.Series([dt.datetime(2024, 1, 2, 5)]).dt.replace_time_zone("UTC")
    dates = parse(utc.dt.convert_time_zone("America/New_York"))
    assert str(dates.time[0]) == "2024-01-02T00:00:00"
    assert dates.zone == "America/New_York"


def test_a_column_of_clock_times() -> None:
    clock = parse_clock(pl.Series(["000000", "153000", "09:31:05", "9x"]))
    assert clock.astype(int).tolist() == [0, 55_800, 34_265, 0]


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2-Jan-26", "2026-01-02"),
        ("2-Jan-27", "1927-01-02"),
        ("2-Jan-69", "1969-01-02"),
        ("1/13/66", "1966-01-13"),
        ("2-Jan-00", "2000-01-02"),
    ],
)
def test_a_year_of_two_digits_is_never_one_to_come(text: str, date: str) -> None:
    assert times(text) == [f"{date}T00:00:00"]


def test_the_pivot_moves_with_the_day_and_has_room_for_tomorrow() -> None:
    column = pl.Series(["2-Jan-27"])
    for today, year in (("2026-12-30", 1927), ("2026-12-31", 2027), ("2050-01-01", 2027)):
        assert str(parse_dates(column, np.datetime64(today)).time[0])[:4] == str(year)


@pytest.mark.parametrize("form", ["{}", "{}T09:30:00"])
def test_a_date_after_tomorrow_costs_its_row(tmp_path: Path, form: str) -> None:
    cells = rows(30)
    cells[-2][0], cells[-1][0] = form.format("2026-06-02"), form.format("2026-06-03")
    result = read_cells(tmp_path, cells, max_gap_days=9999)  # as on 1 June 2026
    found = finding(result, "future-date")
    assert (found.level, found.rows, found.date) == ("drop", 1, "2026-06-03")
    assert str(result.bars.time[-1])[:10] == "2026-06-02"


def test_a_file_from_the_future_is_left_out(tmp_path: Path) -> None:
    cells = [[row[0].replace("2020", "2120"), *row[1:]] for row in rows(30)]
    result = read_cells(tmp_path, cells)
    assert finding(result, "future-date").level == "error"
    assert len(result.bars) == 0


def test_old_bars_with_years_of_two_digits_keep_their_order(tmp_path: Path) -> None:
    days = [str(day) for day in np.busday_offset("1968-06-03", np.arange(700), roll="forward")]
    written = [np.datetime64(day).astype(dt.date).strftime("%d-%b-%y") for day in days]
    cells = [[day, *row[1:]] for day, row in zip(written, rows(700), strict=True)]
    result = read_cells(tmp_path, cells)
    assert result.bars.time.astype("datetime64[D]").astype(str).tolist() == days
