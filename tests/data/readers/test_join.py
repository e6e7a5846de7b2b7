"""One symbol in several files: what they share, what they contradict, and which file a finding names."""

import numpy as np
import pytest
from bar_files import HEADER, finding, numbers, read, rows, rules, write

from stockenh.data.findings import Rows
from stockenh.data.readers.clean import join_rows


def two_files(folder, first, second):
    write(folder / "a.csv", [["ACME", *row] for row in first], f"Symbol,{HEADER}")
    write(folder / "b.csv", [["ACME", *row] for row in second], f"Symbol,{HEADER}")


def test_one_shared_date_costs_one_row_and_the_first_file_keeps_it(tmp_path):
    cells = rows(140)
    two_files(tmp_path, cells[:70], [[cells[69][0], "1", "1", "1", "1", "7"], *cells[70:]])
    result = read(tmp_path)
    place = {"file": "b.csv", "symbol": "ACME", "date": cells[69][0], "rows": 1}
    finding(result, "shared-date", "1 of 71 rows", "a.csv", "1 of them with other", level="drop", **place)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))
    assert rules(result) == ["shared-date"]
    cells = rows(140)
    two_files(tmp_path, [[cells[120][0], *cells[0][1:]]], cells[1:])
    result = read(tmp_path)
    assert finding(result, "shared-date").rows == 1
    assert len(result.bars) == 139


@pytest.mark.parametrize(("overlap", "clock"), [(50, ""), (10, " 16:00:00")])
def test_files_that_overlap_with_equal_values_are_joined(tmp_path, overlap, clock):
    """Daily bars with a clock and without one share their dates."""
    cells = rows(140)
    two_files(tmp_path, cells[:100], [[row[0] + clock, *row[1:]] for row in cells[100 - overlap :]])
    result = read(tmp_path)
    finding(result, "shared-date", "with the same values", rows=overlap)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))
    assert result.files_used == 2


def test_other_prices_under_the_same_name_leave_that_file_out_and_no_other(tmp_path):
    cells = rows(140)
    halved = [[row[0], *(str(float(price) / 2) for price in row[1:5]), row[5]] for row in cells[90:]]
    two_files(tmp_path, cells[:100], halved)  # 10 of its 50 dates are shared
    result = read(tmp_path)
    finding(result, "duplicate-symbol", level="error", file="b.csv", rows=50)
    assert len(result.bars) == 100
    two_files(tmp_path, rows(30), rows(40, seed=1))
    result = read(tmp_path)
    finding(result, "duplicate-symbol", "a.csv", level="error", file="b.csv", symbol="ACME")
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))
    cells = rows(140)
    two_files(tmp_path, cells[:70], [[row[0], *rows(140, seed=5)[i][1:]] for i, row in enumerate(cells)])
    write(tmp_path / "c.csv", [["ACME", *row] for row in cells[70:]], f"Symbol,{HEADER}")
    result = read(tmp_path)
    assert [(f.rule, f.file) for f in result.findings] == [("duplicate-symbol", "b.csv")]
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))


BAD = {
    "price-not-positive": ["0", "101", "99", "100", "5"],
    "high-below-low": ["100", "99", "101", "100", "5"],
    "spike": [str(2 * price) for price in numbers(140)[100, :4]],  # a warning
}


@pytest.mark.parametrize("rule", BAD)
def test_a_finding_names_the_file_that_holds_the_row(tmp_path, rule):
    cells, bad = rows(140), BAD[rule]
    cells[100][1 : 1 + len(bad)] = bad
    two_files(tmp_path, cells[:70], cells[70:])
    finding(read(tmp_path), rule, file="b.csv", date=cells[100][0])
    cells[10][1 : 1 + len(bad)] = bad
    two_files(tmp_path, cells[:70], cells[70:])
    finding(read(tmp_path), rule, "in 1 other file", file="a.csv", date=cells[10][0], rows=2)


def test_thousands_of_daily_files_with_one_repeated_are_joined_in_one_pass():
    values = numbers(3000)
    days = np.busday_offset("2010-01-01", np.arange(3000), roll="forward").astype("datetime64[s]")
    parts = [Rows(days[i : i + 1], values[i : i + 1], None, (f"{i}.csv",)) for i in range(3000)]
    again = Rows(days[1500:1501], values[1500:1501], None, ("1500 (1).csv",))
    joined, found = join_rows([*parts[:1501], again, *parts[1501:]], "ACME")
    np.testing.assert_array_equal(joined.ohlcv, values)
    assert [(f.file, f.rows) for f in found] == [("1500 (1).csv", 1)]
