"""Rules that leave single rows out: what is dropped, how it is counted, and which first date is named."""

import numpy as np
import pytest
from bar_files import HEADER, cells_of, dates, finding, numbers, read, read_cells, rows, rules, write

BAD = 70
# Cells open, high, low, close, volume of one bad row; None keeps the good cell.
CASES = {
    "prices and volume blank": ("blank-row", ["", "", "", "", ""]),
    "Yahoo's null": ("blank-row", ["null", "null", "null", "null", "null"]),
    "only the open missing": ("open-missing", ["", None, None, None, None]),
    "close alone, volume 0": ("no-trades", ["", "", "", None, "0"]),
    "close alone, the rest 0": ("no-trades", ["0", "0", "0", None, "0"]),
    "low missing": ("price-missing", [None, None, "", None, None]),
    "volume missing": ("volume-missing", [None, None, None, None, ""]),
    "text for a price": ("number-unreadable", [None, "halted", None, None, None]),
    "open 0": ("price-not-positive", ["0", None, None, None, None]),
    "low below 0": ("price-not-positive", [None, None, "-3", None, None]),
    "volume of 1e300": ("volume-too-large", [None, None, None, None, "1e300"]),
    "volume below 0": ("volume-negative", [None, None, None, None, "-100"]),
    "1e10 with volume 0": ("price-too-large", ["1e10", "1e10", "1e10", "1e10", "0"]),
    "2e6 with volume 0": ("price-too-large", ["2e6", "2e6", "2e6", "2e6", "0"]),
    "decimal shift of the close": ("decimal-shift", ["179", "180", "178", "17.968", None]),
    "decimal shift of the high": ("decimal-shift", ["179", "1800", "178", "179.68", None]),
    "high below low": ("high-below-low", ["100", "99", "101", "100", None]),
    "close 1% above high": ("outside-range", ["100", "101", "99", "102.1", None]),
    "open 1% below low": ("outside-range", ["98", "101", "99", "100", None]),
    "infinite high": ("infinite-value", [None, "inf", None, None, None]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_row_is_left_out_and_counted(tmp_path, case):
    rule, bad = CASES[case]
    cells = rows()
    day, *good = cells[BAD]
    cells[BAD] = [day, *(g if b is None else b for g, b in zip(good, bad, strict=True))]
    result = read_cells(tmp_path, cells)
    place = {"symbol": "ACME", "file": "ACME.csv", "date": day, "rows": 1}
    assert finding(result, rule, "1 of 140 rows left out", level="drop", **place).fix
    assert len(result.bars) == 139 and np.datetime64(day) not in result.bars.time


def test_unreadable_text_is_shown_and_a_row_counts_under_its_first_rule_only(tmp_path):
    cells = rows()
    cells[3][2], cells[5][0] = "halted", "2020-13-45"
    result = read_cells(tmp_path, cells)
    finding(result, "number-unreadable", "'halted'")
    finding(result, "date-unreadable", "'2020-13-45'")
    assert len(result.bars) == 138
    cells = rows()
    cells[BAD][1:] = ["0", "", "5", "-1", "-9"]
    result = read_cells(tmp_path, cells)
    assert [f.rows for f in result.findings if f.level == "drop"] == [1]


@pytest.mark.parametrize(
    ("at", "blank"),
    [
        (10, [["", "", "", "", "", ""], [""]]),
        (0, [[day, *[""] * 5] for day in dates(300, "2000-01-03")]),  # more than there are bars
    ],
)
def test_blank_rows_cost_only_themselves(tmp_path, at, blank):
    cells = rows()
    cells[at:at] = blank
    result = read_cells(tmp_path, cells)
    finding(result, "blank-row", level="drop", rows=len(blank))
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))


def test_thousands_separators_that_begin_inside_the_column(tmp_path):
    values = numbers(140) * [10, 10, 10, 10, 1]
    assert values[:, 3].min() < 1000 < values[:, 3].max()
    result = read_cells(tmp_path, cells_of(values, price='"{:,.2f}"', volume='"{:,.0f}"'))
    assert result.findings == ()
    np.testing.assert_allclose(result.bars.ohlcv, values, rtol=1e-12)


def test_adjusted_close_at_or_below_zero_or_missing_is_left_out(tmp_path):
    cells = [[*row, row[4]] for row in rows()]
    cells[4][6], cells[5][6], cells[6][6], cells[7][6] = "0", "-1", "", "1e20"
    path = write(tmp_path / "ACME.csv", cells, f"{HEADER},Adj Close")
    result = read(path)
    finding(result, "adj-close-not-positive", rows=3)
    finding(result, "adj-close-absurd", rows=1)
    assert (len(result.bars), len(read(path, adjust=False).bars)) == (136, 140)


@pytest.mark.parametrize(
    ("ohlc", "fired"),
    [
        (["100", "101", "99", repr(101 * (1 + 1e-8))], []),
        (["100", "101", "99", repr(101 * (1 + 0.004))], ["range-rounding"]),
        (["100", "99.9999999", "100", "100"], []),
    ],
)
def test_a_bar_slightly_out_of_order_is_kept(tmp_path, ohlc, fired):
    cells = rows()
    cells[BAD][1:5] = ohlc
    result = read_cells(tmp_path, cells)
    assert (len(result.bars), rules(result)) == (140, fired)
    assert result.bars.ohlcv[BAD, 3] == float(ohlc[3])


def test_a_rule_that_hits_most_rows_is_an_error_for_the_file(tmp_path):
    result = read_cells(tmp_path, [[d, o, low, high, c, v] for d, o, high, low, c, v in rows()])
    finding(result, "high-below-low", "140 of 140 rows", "data.columns", level="error")
    assert (len(result.bars), result.files_used) == (0, 0)
    undated = read_cells(tmp_path, [["Q" + row[0], *row[1:]] for row in rows()])
    finding(undated, "date-unreadable", "data.columns.date=NAME", level="error")


def test_a_repeated_date_keeps_the_last_row_and_says_whether_they_differ(tmp_path):
    cells = rows()
    cells.insert(11, [cells[10][0], "100", "101", "99", "100.5", "7"])
    result = read_cells(tmp_path, cells)
    finding(result, "duplicate-date", "all different", level="drop", rows=1, date=cells[10][0])
    assert result.bars.ohlcv[10].tolist() == [100, 101, 99, 100.5, 7]
    cells[11] = cells[10]
    finding(read_cells(tmp_path, cells), "duplicate-date", "identical")


@pytest.mark.parametrize(
    ("header", "empty"), [(HEADER, [""]), (HEADER, ["-"]), ("Date,Open,High,Low,Close", [])]
)
def test_without_volume_it_is_zero_with_a_warning(tmp_path, header, empty):
    result = read_cells(tmp_path, [[*row[:5], *empty] for row in rows()], header)
    finding(result, "no-volume", level="warning")
    assert len(result.bars) == 140 and (result.bars.ohlcv[:, 4] == 0).all()
