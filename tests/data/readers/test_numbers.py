"""Numbers as public exports write them, and the sign that divides their decimals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bar_files import HEADER, Row, dates, finding, numbers, read, read_cells, rows, rules

from stockenh.data.readers.numbers import DecimalSign, decimal_sign, parse_numbers


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


def sign(separator: str = ";", **columns: list[str]) -> DecimalSign:
    return decimal_sign({name: pl.Series(texts) for name, texts in columns.items()}, separator)


def test_decimal_commas() -> None:
    column = pl.Series(["179,68", "1.234,5", "1,234", "1.234", "1 234,5", "7", "1,5M"])
    assert sign(close=column.to_list()) == DecimalSign(comma=True)
    parsed = parse_numbers(column, DecimalSign(comma=True))
    assert parsed.value.tolist() == [179.68, 1234.5, 1.234, 1234, 1234.5, 7, 1.5e6]


def test_a_point_decimal_under_a_decimal_comma_is_unreadable() -> None:
    parsed = parse_numbers(pl.Series(["40.14", "40,14", "4.01", "1.23.456"]), DecimalSign(comma=True))
    assert parsed.unreadable.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("columns", "comma"),
    [
        ({"close": ["40.14", "41.2"]}, False),
        ({"close": ["40.14", "41.2", "40,14"]}, False),
        ({"close": ["40.125", "41.250", "40,14"]}, False),
        ({"close": ["40,14", "41,2", "40.14"]}, True),
        ({"close": ["40,125", "41,2"]}, True),
        ({"close": ["9.125", "9.250"], "volume": ["12.345.600", "1.000.000"]}, True),
        ({"close": ["71,200", "71,300"], "volume": ["12,345,600", "1,000,000"]}, False),
        ({"close": ["1,234.5", "12,34,567"]}, False),
    ],
)
def test_the_column_as_a_whole_decides(columns: dict[str, list[str]], comma: bool) -> None:
    found = sign(**columns)
    assert (found.comma, found.doubt, found.clash) == (comma, "", "")


@pytest.mark.parametrize(("separator", "comma"), [(";", True), ("\t", True), (",", False)])
def test_where_no_number_decides_the_separator_does_and_the_doubt_is_told(
    separator: str, comma: bool
) -> None:
    found = sign(separator, close=["40,125", "41,250"], volume=["12345", "999"])
    assert (found.comma, found.doubt) == (comma, "40,125")
    assert not sign(separator, close=["40,125", "41,250"], volume=["12,345", "999"]).comma


def test_columns_that_contradict_each_other_clash() -> None:
    found = sign(open=["40,14", "41,2"], volume=["1.5", "2.75"])
    assert found.clash == "open has a decimal comma ('40,14') and volume a decimal point ('1.5')"
    assert sign(close=["1.234", "1,234"]).clash


def semicolons(path: Path, cells: list[Row]) -> Path:
    path.write_text("\n".join(";".join(row) for row in [HEADER.split(","), *cells]))
    return path


@pytest.mark.parametrize("decimals", [2, 3])
def test_one_decimal_comma_among_points_costs_its_own_row_and_scales_nothing(
    tmp_path: Path, decimals: int
) -> None:
    values = numbers(140)
    cells = [
        [day, *(f"{price:.{decimals}f}" for price in bar[:4]), f"{bar[4]:.0f}"]
        for day, bar in zip(dates(140), values, strict=True)
    ]
    cells[70][4] = "40,14"
    result = read(semicolons(tmp_path / "ACME.csv", cells))
    found = finding(result, "number-unreadable")
    assert (found.level, found.rows, found.date) == ("drop", 1, dates(140)[70])
    assert "'40,14'" in found.message
    np.testing.assert_array_equal(result.bars.ohlcv, np.delete(values, 70, axis=0))


@pytest.mark.parametrize("commas", [20, 60, 100])
def test_two_halves_with_different_signs_are_never_scaled(tmp_path: Path, commas: int) -> None:
    """Every tenth price has three decimals, which either sign explains."""
    values = numbers(140)
    cells = []
    for i, (day, bar) in enumerate(zip(dates(140), values, strict=True)):
        prices = [f"{price:.{3 if i % 10 == 0 else 2}f}" for price in bar[:4]]
        cells.append([day, *(p.replace(".", ",") if i < commas else p for p in prices), f"{bar[4]:.0f}"])
    result = read(semicolons(tmp_path / "ACME.csv", cells))
    assert finding(result, "number-unreadable").rows >= min(commas, 140 - commas)
    kept = np.isin(np.array(dates(140), "datetime64[D]"), result.bars.time.astype("datetime64[D]"))
    assert 60 < kept.sum() < 140
    np.testing.assert_array_equal(result.bars.ohlcv, values[kept])


def test_a_price_column_against_the_volume_column_is_an_error(tmp_path: Path) -> None:
    cells = [[row[0], *(price.replace(".", ",") for price in row[1:5]), row[5] + ".5"] for row in rows(30)]
    result = read(semicolons(tmp_path / "ACME.csv", cells))
    found = finding(result, "decimal-sign")
    assert found.level == "error" and "open has a decimal comma" in found.message
    assert len(result.bars) == 0


def test_three_decimals_behind_commas_are_read_as_such_with_a_warning(tmp_path: Path) -> None:
    values = numbers(140)
    cells = [[d, *(f"{p:.3f}".replace(".", ",") for p in bar[:4]), f"{bar[4]:.0f}"]
             for d, bar in zip(dates(140), values, strict=True)]  # fmt: skip
    result = read(semicolons(tmp_path / "ACME.csv", cells))
    assert rules(result) == ["decimal-sign"]
    assert finding(result, "decimal-sign").level == "warning"
    np.testing.assert_array_equal(result.bars.ohlcv, values)


def test_quoted_thousands_in_a_comma_file_stay_thousands(tmp_path: Path) -> None:
    cells = [[row[0], *(f'"{1000 * float(p):,.0f}"' for p in row[1:5]), f'"{float(row[5]):,.0f}"']
             for row in rows(30)]  # fmt: skip
    result = read_cells(tmp_path, cells)
    np.testing.assert_allclose(result.bars.ohlcv[:, :4], 1000 * numbers(30)[:, :4])
