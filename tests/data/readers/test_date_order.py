"""The order of day and month in dates like 1/4/1999, which a whole folder decides."""

import datetime as dt

import numpy as np
import pytest
from bar_files import HEADER, cells_of, dates, finding, numbers, read, rows, rules, write

from stockenh.data.readers import ReadSettings, read_bars

FORMS = {
    "slashes": ("%d/%m/%Y", "%m/%d/%Y"),
    "dashes": ("%d-%m-%Y", "%m-%d-%Y"),
    "points": ("%d.%m.%Y", "%m.%d.%Y"),
    "two-digit years": ("%d/%m/%y", "%m/%d/%y"),
    "with a time": ("%d/%m/%Y 00:00", "%m/%d/%Y 00:00"),
}


def form(days, pattern):
    return [np.datetime64(day).astype(dt.date).strftime(pattern) for day in days]


def per_day(folder, days, pattern, seeds=(0,)):
    """One file per day with a row per symbol."""
    for i, (day, text) in enumerate(zip(days, form(days, pattern), strict=True)):
        cells = [[f"S{seed}", text, *rows(len(days), seed)[i][1:]] for seed in seeds]
        write(folder / f"day_{day.replace('-', '')}.csv", cells, f"Symbol,{HEADER}")


def monthly(folder, days, pattern, name="ACME"):
    """One file per month of one symbol, named after the month."""
    cells = cells_of(numbers(len(days)), form(days, pattern))
    for month in sorted({day[:7] for day in days}):
        own = [row for row, day in zip(cells, days, strict=True) if day[:7] == month]
        write(folder / f"{name}_{month}.csv", own)


def days_of(result):
    return result.bars.time.astype("datetime64[D]").astype(str).tolist()


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("order", [0, 1])
def test_a_day_above_twelve_in_one_file_decides_for_the_files_of_single_days(tmp_path, kind, order):
    days = dates(60, "2024-06-03")
    per_day(tmp_path, days, FORMS[kind][order], seeds=(0, 1))
    result = read(tmp_path)
    assert (result.bars.symbols, result.findings) == (("S0", "S1"), ())
    assert days_of(result) == days * 2
    np.testing.assert_array_equal(result.bars.ohlcv, np.concatenate([numbers(60, 0), numbers(60, 1)]))


@pytest.mark.parametrize("order", [0, 1])
def test_a_short_month_follows_the_other_months(tmp_path, order):
    days = dates(60, "2024-06-03")
    days = days[:45]  # the last month has two days
    monthly(tmp_path, days, FORMS["slashes"][order])
    result = read(tmp_path)
    assert (result.bars.symbols, days_of(result)) == (("ACME",), days)
    assert "date-order" not in rules(result)


def test_short_files_of_some_symbols_follow_the_long_files(tmp_path):
    days = dates(60, "2024-06-03")
    short = [day for day in days if day[8:] < "13"][:8]
    write(tmp_path / "LONG.csv", cells_of(numbers(60), form(days, "%d/%m/%Y")))
    write(tmp_path / "SHORT.csv", cells_of(numbers(8), form(short, "%d/%m/%Y")))
    result = read_bars(tmp_path, ReadSettings(min_bars=5, max_gap_days=99), np.datetime64("2026-06-01"))
    assert result.bars.symbols == ("LONG", "SHORT")
    assert days_of(result)[60:] == short


def test_each_file_that_proves_its_own_order_keeps_it_and_one_without_proof_is_refused(tmp_path):
    days = dates(60, "2024-06-03")
    write(tmp_path / "EU.csv", cells_of(numbers(60, 1), form(days, "%d/%m/%Y")))
    write(tmp_path / "US.csv", cells_of(numbers(60, 2), form(days, "%m/%d/%Y")))
    result = read(tmp_path)
    assert (days_of(result), result.findings) == (days * 2, ())
    unclear = dates(2, "2024-06-03")
    write(tmp_path / "XX.csv", cells_of(numbers(2, 3), form(unclear, "%d/%m/%Y")))
    refused = finding(read(tmp_path), "date-order", "prove both orders", level="error", file="XX.csv")
    assert "data.dayfirst=true" in refused.fix
    settings = ReadSettings(min_bars=1, dayfirst=True)  # the fix works, and leaves the proven files alone
    result = read_bars(tmp_path, settings, np.datetime64("2026-06-01"))
    assert days_of(result) == [*days, *days, *unclear]


def test_the_layout_of_a_file_decides_which_files_it_follows(tmp_path):
    days = dates(60, "2024-06-03")
    write(tmp_path / "EU.csv", cells_of(numbers(60, 1), form(days, "%d.%m.%Y")))
    write(tmp_path / "US.csv", cells_of(numbers(60, 2), form(days, "%m/%d/%Y")))
    write(tmp_path / "X.csv", cells_of(numbers(2, 3), form(dates(2, "2024-07-03"), "%d.%m.%Y")))
    result = read_bars(tmp_path, ReadSettings(min_bars=1), np.datetime64("2026-06-01"))
    assert days_of(result)[-2:] == dates(2, "2024-07-03")


def test_weekends_decide_together_where_no_file_proves_an_order(tmp_path):
    days = [day for day in dates(160, "2024-01-01") if day[8:] < "13"]
    per_day(tmp_path, days, "%d/%m/%Y")
    result = read(tmp_path)
    assert (days_of(result), rules(result)) == (days, [])


def test_a_folder_without_any_evidence_is_read_in_one_order_with_a_warning_that_has_a_fix(tmp_path):
    days = ["2024-05-02", "2024-05-06", "2024-05-07", "2024-06-05"]  # neither order has a weekend
    per_day(tmp_path, days, "%d/%m/%Y")
    result = read_bars(tmp_path, ReadSettings(min_bars=1), np.datetime64("2026-06-01"))
    warned = [found for found in result.findings if found.rule == "date-order"]
    assert len(warned) == 4 and {found.level for found in warned} == {"warning"}
    assert "data.dayfirst=true" in warned[0].fix
    read_again = read_bars(tmp_path, ReadSettings(min_bars=1, dayfirst=True), np.datetime64("2026-06-01"))
    assert (days_of(read_again), read_again.findings) == (days, ())


def test_other_files_never_turn_dates_against_time(tmp_path):
    days = dates(60, "2024-06-03")
    write(tmp_path / "EU.csv", cells_of(numbers(60, 1), form(days, "%d/%m/%Y")))
    mixed = ["2024-07-03", "2024-07-05", "2024-08-01", "2024-08-02"]
    write(tmp_path / "US.csv", cells_of(numbers(4), form(mixed, "%m/%d/%Y")))
    finding(read(tmp_path), "date-order", "run both ways", level="error", file="US.csv")


def test_both_orders_in_one_file_are_refused_and_one_slip_costs_its_row(tmp_path):
    days = dates(60, "2024-06-03")
    cells = [["EU", *row] for row in cells_of(numbers(60, 1), form(days, "%d/%m/%Y"))]
    other = [["US", *row] for row in cells_of(numbers(60, 2), form(days, "%m/%d/%Y"))]
    path = write(tmp_path / "all.csv", cells + other, f"Symbol,{HEADER}")
    finding(read(path), "date-order", "'13/06/2024'", "'06/13/2024'", level="error")
    cells[40][1] = "06/30/2024"
    result = read(write(path, cells, f"Symbol,{HEADER}"))
    finding(result, "date-unreadable", level="drop", rows=1)
    assert len(result.bars) == 59


def test_a_year_of_two_digits_may_come_first(tmp_path):
    days = dates(60, "2024-11-01")
    result = read(write(tmp_path / "ACME.csv", cells_of(numbers(60), form(days, "%y/%m/%d"))))
    assert (days_of(result), result.findings) == (days, ())
