"""Numbers as public exports write them, and the sign that divides their decimals."""

import numpy as np
import polars as pl
import pytest
from bar_files import HEADER, cells_of, dates, finding, numbers, read, read_cells, rows, rules

from stockenh.data.readers.numbers import DecimalSign, decimal_sign, parse_numbers

NAN, BAD = float("nan"), None


@pytest.mark.parametrize(
    ("comma", "texts", "values"),
    [
        (False, ["999.5", "1,234.5", "12,34,567.8", "$1,000"], [999.5, 1234.5, 1234567.8, 1000.0]),
        (False, ["1.5M", "2K", " 7 "], [1.5e6, 2000.0, 7.0]),
        (False, ["", "-", "null", "N/A", "NaN", None], [NAN] * 6),
        (False, ["1.0", "12,34", "0.205 Dividend", "1..2"], [1.0, BAD, BAD, BAD]),
        (True, ["179,68", "1.234,5", "1,234", "1.234", "1 234,5"], [179.68, 1234.5, 1.234, 1234, 1234.5]),
        (True, ["7", "1,5M"], [7, 1.5e6]),
        (True, ["40.14", "40,14", "4.01", "1.23.456"], [BAD, 40.14, BAD, BAD]),
    ],
)
def test_a_number_is_read_is_missing_or_is_unreadable(comma, texts, values):
    parsed = parse_numbers(pl.Series(texts), DecimalSign(comma))
    assert parsed.unreadable.tolist() == [value is BAD for value in values]
    readable = [value for value in values if value is not BAD]
    np.testing.assert_array_equal(parsed.value[~parsed.unreadable], readable)


def sign(separator=";", **columns):
    return decimal_sign({name: pl.Series(texts) for name, texts in columns.items()}, separator)


@pytest.mark.parametrize(
    ("columns", "comma"),
    [
        ({"close": ["40.14", "41.2"]}, False),
        ({"close": ["40.14", "41.2", "40,14"]}, False),
        ({"close": ["40.125", "41.250", "40,14"]}, False),
        ({"close": ["40,14", "41,2", "40.14"]}, True),
        ({"close": ["40,125", "41,2"]}, True),
        ({"close": ["179,68", "1.234,5", "1,234", "1.234", "1 234,5", "7", "1,5M"]}, True),
        ({"close": ["9.125", "9.250"], "volume": ["12.345.600", "1.000.000"]}, True),
        ({"close": ["71,200", "71,300"], "volume": ["12,345,600", "1,000,000"]}, False),
        ({"close": ["1,234.5", "12,34,567"]}, False),
    ],
)
def test_the_column_as_a_whole_decides(columns, comma):
    found = sign(**columns)
    assert (found.comma, found.doubt, found.clash) == (comma, "", "")


@pytest.mark.parametrize(("separator", "comma"), [(";", True), ("\t", True), (",", False)])
def test_where_no_number_decides_the_separator_does_with_a_doubt(separator, comma):
    found = sign(separator, close=["40,125", "41,250"], volume=["12345", "999"])
    assert (found.comma, found.doubt) == (comma, "40,125")
    assert not sign(separator, close=["40,125", "41,250"], volume=["12,345", "999"]).comma


def test_columns_that_contradict_each_other_clash():
    clash = sign(open=["40,14", "41,2"], volume=["1.5", "2.75"]).clash
    assert all(word in clash for word in ("open", "'40,14'", "volume", "'1.5'"))
    assert sign(close=["1.234", "1,234"]).clash


def read_semicolons(folder, cells):
    path = folder / "ACME.csv"
    path.write_text("\n".join(";".join(row) for row in [HEADER.split(","), *cells]))
    return read(path)


@pytest.mark.parametrize("price", ["{:.2f}", "{:.3f}"])
def test_one_decimal_comma_among_points_costs_its_own_row_and_scales_nothing(tmp_path, price):
    values = numbers(140)
    cells = cells_of(values, price=price, volume="{:.0f}")
    cells[70][4] = "40,14"
    result = read_semicolons(tmp_path, cells)
    finding(result, "number-unreadable", "'40,14'", level="drop", rows=1, date=dates(140)[70])
    np.testing.assert_array_equal(result.bars.ohlcv, np.delete(values, 70, axis=0))


@pytest.mark.parametrize("commas", [20, 60, 100])
def test_two_halves_with_different_signs_are_never_scaled(tmp_path, commas):
    """Every tenth price has three decimals, which either sign explains."""
    values, cells = numbers(140), rows(140)
    for i, row in enumerate(cells):
        prices = [price + "0" if i % 10 == 0 else price for price in row[1:5]]
        row[1:5] = [price.replace(".", ",") if i < commas else price for price in prices]
    result = read_semicolons(tmp_path, cells)
    assert finding(result, "number-unreadable").rows >= min(commas, 140 - commas)
    kept = np.isin(np.array(dates(140), "datetime64[D]"), result.bars.time.astype("datetime64[D]"))
    assert 60 < kept.sum() < 140
    np.testing.assert_array_equal(result.bars.ohlcv, values[kept])


def test_two_signs_are_an_error_three_decimals_a_warning_and_quoted_thousands_neither(tmp_path):
    cells = [[row[0], *(price.replace(".", ",") for price in row[1:5]), row[5] + ".5"] for row in rows(30)]
    result = read_semicolons(tmp_path, cells)
    finding(result, "decimal-sign", "open has a decimal comma", level="error")
    assert len(result.bars) == 0
    cells = cells_of(numbers(140), price="{:.3f}", volume="{:.0f}")
    result = read_semicolons(tmp_path, [[cell.replace(".", ",") for cell in row] for row in cells])
    assert rules(result) == ["decimal-sign"] and finding(result, "decimal-sign", level="warning")
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))
    values = numbers(30) * [1000, 1000, 1000, 1000, 1]
    result = read_cells(tmp_path, cells_of(values, price='"{:,.0f}"', volume='"{:,.0f}"'))
    np.testing.assert_allclose(result.bars.ohlcv[:, :4], values[:, :4])
