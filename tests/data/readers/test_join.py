"""One symbol in several files: what they share, what they contradict, and which file a finding names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bar_files import HEADER, Row, dates, finding, numbers, read, rows, rules, write

from stockenh.data.findings import Rows
from stockenh.data.readers.clean import join_rows


def two_files(folder: Path, first: list[Row], second: list[Row]) -> None:
    write(folder / "a.csv", [["ACME", *row] for row in first], f"Symbol,{HEADER}")
    write(folder / "b.csv", [["ACME", *row] for row in second], f"Symbol,{HEADER}")


def test_one_shared_date_costs_one_row_and_the_first_file_keeps_it(tmp_path: Path) -> None:
    cells = rows(140)
    two_files(tmp_path, cells[:70], [[cells[69][0], "1", "1", "1", "1", "7"], *cells[70:]])
    result = read(tmp_path)
    found = finding(result, "shared-date")
    assert (found.level, found.file, found.symbol) == ("drop", "b.csv", "ACME")
    assert (found.date, found.rows) == (cells[69][0], 1)
    assert found.message == (
        "1 of 71 rows left out: a.csv has these dates too, 1 of them with other values; a.csv's stay"
    )
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))
    assert rules(result) == ["shared-date"]


def test_files_that_overlap_with_equal_values_are_joined(tmp_path: Path) -> None:
    cells = rows(140)
    two_files(tmp_path, cells[:100], cells[50:])
    result = read(tmp_path)
    found = finding(result, "shared-date")
    assert found.rows == 50 and "with the same values" in found.message
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))
    assert result.files_used == 2


def test_a_date_mistyped_into_the_other_file_does_not_cost_the_file(tmp_path: Path) -> None:
    cells = rows(140)
    two_files(tmp_path, [[cells[120][0], *cells[0][1:]]], cells[1:])
    result = read(tmp_path)
    assert finding(result, "shared-date").rows == 1
    assert len(result.bars) == 139


def test_prices_on_another_scale_leave_the_second_file_out(tmp_path: Path) -> None:
    cells = rows(140)
    halved = [[row[0], *(str(float(price) / 2) for price in row[1:5]), row[5]] for row in cells[90:]]
    two_files(tmp_path, cells[:100], halved)  # 10 of its 50 dates are shared
    result = read(tmp_path)
    found = finding(result, "duplicate-symbol")
    assert (found.level, found.file, found.rows) == ("error", "b.csv", 50)
    assert len(result.bars) == 100


def test_another_symbols_prices_under_the_same_name_leave_the_second_file_out(tmp_path: Path) -> None:
    two_files(tmp_path, rows(30), rows(40, seed=1))
    result = read(tmp_path)
    found = finding(result, "duplicate-symbol")
    assert (found.level, found.file, found.symbol) == ("error", "b.csv", "ACME")
    assert "a.csv" in found.message
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))


def test_a_refused_file_does_not_take_others_with_it(tmp_path: Path) -> None:
    cells = rows(140)
    two_files(tmp_path, cells[:70], [[row[0], *rows(140, seed=5)[i][1:]] for i, row in enumerate(cells)])
    write(tmp_path / "c.csv", [["ACME", *row] for row in cells[70:]], f"Symbol,{HEADER}")
    result = read(tmp_path)
    assert [(f.rule, f.file) for f in result.findings] == [("duplicate-symbol", "b.csv")]
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))


def test_daily_bars_with_and_without_a_clock_share_their_dates(tmp_path: Path) -> None:
    cells = rows(140)
    two_files(tmp_path, cells[:100], [[f"{row[0]} 16:00:00", *row[1:]] for row in cells[90:]])
    result = read(tmp_path)
    assert finding(result, "shared-date").rows == 10
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))


@pytest.mark.parametrize(
    ("bad", "rule"), [("0,101,99,100,5", "price-not-positive"), ("100,99,101,100,5", "high-below-low")]
)
def test_a_finding_names_the_file_that_holds_the_row(tmp_path: Path, bad: str, rule: str) -> None:
    cells = rows(140)
    cells[100][1:] = bad.split(",")
    two_files(tmp_path, cells[:70], cells[70:])
    found = finding(read(tmp_path), rule)
    assert (found.file, found.date) == ("b.csv", cells[100][0])
    cells[10][1:] = bad.split(",")
    two_files(tmp_path, cells[:70], cells[70:])
    found = finding(read(tmp_path), rule)
    assert (found.file, found.date, found.rows) == ("a.csv", cells[10][0], 2)
    assert found.message.endswith("; some of them in 1 other file")


def test_a_warning_names_the_file_that_holds_the_row(tmp_path: Path) -> None:
    cells = rows(140)
    cells[100][1:5] = [str(2 * float(price)) for price in cells[100][1:5]]
    two_files(tmp_path, cells[:70], cells[70:])
    found = finding(read(tmp_path), "spike")
    assert (found.file, found.date) == ("b.csv", dates(140)[100])


def test_thousands_of_daily_files_with_one_repeated_are_joined_in_one_pass() -> None:
    values = numbers(3000)
    days = np.busday_offset("2010-01-01", np.arange(3000), roll="forward").astype("datetime64[s]")
    parts = [Rows(days[i : i + 1], values[i : i + 1], None, (f"{i}.csv",)) for i in range(3000)]
    again = Rows(days[1500:1501], values[1500:1501], None, ("1500 (1).csv",))
    joined, found = join_rows([*parts[:1501], again, *parts[1501:]], "ACME")
    np.testing.assert_array_equal(joined.ohlcv, values)
    assert [(f.file, f.rows) for f in found] == [("1500 (1).csv", 1)]
