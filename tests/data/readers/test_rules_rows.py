"""Rules that leave single rows out: what is dropped, how it is counted, and which first date is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bar_files import dates, finding, numbers, read, read_cells, rows, rules, write

BAD = 70
# Cells open, high, low, close, volume of one bad row; None keeps the good cell.
CASES: dict[str, tuple[str, list[str | None]]] = {
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
def test_a_bad_row_is_left_out_and_counted(tmp_path: Path, case: str) -> None:
    rule, bad = CASES[case]
    cells = rows()
    good = cells[BAD]
    cells[BAD] = [good[0], *(g if b is None else b for g, b in zip(good[1:], bad, strict=True))]
    result = read_cells(tmp_path, cells)
    found = finding(result, rule)
    assert (found.level, found.symbol, found.file) == ("drop", "ACME", "ACME.csv")
    assert (found.date, found.rows) == (good[0], 1)
    assert "1 of 140 rows left out" in found.message
    assert found.fix
    assert len(result.bars) == 139
    assert np.datetime64(good[0]) not in result.bars.time


def test_unreadable_text_is_shown(tmp_path: Path) -> None:
    cells = rows()
    cells[3][2] = "halted"
    cells[5][0] = "2020-13-45"
    result = read_cells(tmp_path, cells)
    assert "'halted'" in finding(result, "number-unreadable").message
    assert "'2020-13-45'" in finding(result, "date-unreadable").message
    assert len(result.bars) == 138


def test_wholly_blank_lines_are_left_out(tmp_path: Path) -> None:
    cells = rows()
    cells[10:10] = [["", "", "", "", "", ""], [""]]
    found = finding(result := read_cells(tmp_path, cells), "blank-row")
    assert found.rows == 2
    assert len(result.bars) == 140


def test_thousands_separators_that_begin_inside_the_column(tmp_path: Path) -> None:
    values = numbers(140) * [10, 10, 10, 10, 1]
    assert values[:, 3].min() < 1000 < values[:, 3].max()
    cells = [
        [day, *(f'"{price:,.2f}"' for price in bar[:4]), f'"{bar[4]:,.0f}"']
        for day, bar in zip(dates(140), values, strict=True)
    ]
    result = read_cells(tmp_path, cells)
    assert result.findings == ()
    np.testing.assert_allclose(result.bars.ohlcv, values, rtol=1e-12)


def test_adjusted_close_at_or_below_zero_or_missing_is_left_out(tmp_path: Path) -> None:
    cells = [[*row, row[4]] for row in rows()]
    cells[4][6], cells[5][6], cells[6][6], cells[7][6] = "0", "-1", "", "1e20"
    path = write(tmp_path / "ACME.csv", cells, "Date,Open,High,Low,Close,Volume,Adj Close")
    result = read(path)
    assert finding(result, "adj-close-not-positive").rows == 3
    assert finding(result, "adj-close-absurd").rows == 1
    assert len(result.bars) == 136
    assert len(read(path, adjust=False).bars) == 140


@pytest.mark.parametrize("excess", [1e-8, 0.004])
def test_an_open_or_close_slightly_outside_is_kept(tmp_path: Path, excess: float) -> None:
    cells = rows()
    cells[BAD][1:5] = ["100", "101", "99", repr(101 * (1 + excess))]
    result = read_cells(tmp_path, cells)
    assert len(result.bars) == 140
    assert ("range-rounding" in rules(result)) == (excess > 1e-6)
    assert result.bars.ohlcv[BAD, 3] == 101 * (1 + excess)


def test_float_noise_that_puts_high_below_low_is_kept(tmp_path: Path) -> None:
    cells = rows()
    cells[BAD][1:5] = ["100", "99.9999999", "100", "100"]
    result = read_cells(tmp_path, cells)
    assert (len(result.bars), result.findings) == (140, ())


def test_a_rule_that_hits_most_rows_is_an_error_for_the_file(tmp_path: Path) -> None:
    cells = [[d, o, low, high, c, v] for d, o, high, low, c, v in rows()]
    result = read_cells(tmp_path, cells)
    found = finding(result, "high-below-low")
    assert found.level == "error"
    assert found.message.startswith("mostly unusable, 140 of 140 rows")
    assert "data.columns" in found.fix
    assert (len(result.bars), result.files_used) == (0, 0)


def test_mostly_unreadable_dates_are_an_error(tmp_path: Path) -> None:
    cells = [["Q" + row[0], *row[1:]] for row in rows()]
    found = finding(read_cells(tmp_path, cells), "date-unreadable")
    assert found.level == "error"
    assert "data.columns.date=NAME" in found.fix


def test_a_repeated_date_keeps_the_last_row_and_says_whether_they_differ(tmp_path: Path) -> None:
    cells = rows()
    cells.insert(11, [cells[10][0], "100", "101", "99", "100.5", "7"])
    result = read_cells(tmp_path, cells)
    found = finding(result, "duplicate-date")
    assert (found.level, found.rows, found.date) == ("drop", 1, cells[10][0])
    assert "all different" in found.message
    assert result.bars.ohlcv[10].tolist() == [100, 101, 99, 100.5, 7]
    cells[11] = cells[10]
    assert "identical" in finding(read_cells(tmp_path, cells), "duplicate-date").message


def test_a_row_counts_under_its_first_rule_only(tmp_path: Path) -> None:
    cells = rows()
    cells[BAD][1:] = ["0", "", "5", "-1", "-9"]
    result = read_cells(tmp_path, cells)
    assert [f.rows for f in result.findings if f.level == "drop"] == [1]


def test_nothing_is_found_in_good_bars(tmp_path: Path) -> None:
    result = read_cells(tmp_path, rows())
    assert result.findings == ()
    assert result.bars.time.astype("datetime64[D]").astype(str).tolist() == dates(140)


def test_years_of_blank_rows_before_the_first_bar_cost_only_themselves(tmp_path: Path) -> None:
    blank = [[day, *[""] * 5] for day in dates(300, "2000-01-03")]
    result = read_cells(tmp_path, [*blank, *rows(140)])
    found = finding(result, "blank-row")
    assert (len(result.bars), found.level, found.rows) == (140, "drop", 300)


@pytest.mark.parametrize("empty", ["", "-"])
def test_an_empty_volume_column_is_no_volume(tmp_path: Path, empty: str) -> None:
    result = read_cells(tmp_path, [[*row[:5], empty] for row in rows(140)])
    assert len(result.bars) == 140 and (result.bars.ohlcv[:, 4] == 0).all()
    assert "no-volume" in rules(result)
