"""What of a folder is read, what is left aside, and the symbols in file names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bar_files import finding, numbers, read, rows, rules, write

from stockenh.data.readers.table import symbol_of


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("aapl_us_d.csv", "AAPL"),
        ("cdr_d.csv", "CDR"),
        ("vod_uk_d.csv", "VOD.UK"),
        ("^spx_d.csv", "^SPX"),
        ("brk-b_us_d.csv", "BRK-B"),
        ("vod.uk.txt", "VOD.UK"),
        ("BRAND_d.csv", "BRAND_d"),
        ("Quote-Equity-SBIN-EQ-01-01-2022-to-31-12-2022.csv", "SBIN"),
        ("Quote-Equity-BAJAJ-AUTO-EQ-01-01-2022-to-31-12-2022 (1).csv", "BAJAJ-AUTO"),
        ("Quote-Equity-M&M-BE-01-01-2022-to-31-12-2022.csv", "M&M"),
        ("01-01-2019-TO-31-12-2019SBINALLN.csv", "SBIN"),
        ("daily_adjusted_IBM.csv", "IBM"),
        ("BRK.B.csv.gz", "BRK.B"),
        ("ACME.tsv", "ACME"),
    ],
)
def test_the_symbol_in_a_file_name(name: str, symbol: str) -> None:
    assert symbol_of(Path("bars") / name) == symbol


def test_yearly_files_of_the_indian_exchange_join(tmp_path: Path) -> None:
    cells = rows(140)
    header = "Date ,series ,OPEN ,HIGH ,LOW ,PREV. CLOSE ,ltp ,close ,vwap ,VOLUME "
    for year, part in (("2020", cells[:70]), ("2021", cells[70:])):
        name = f"Quote-Equity-ACME-EQ-01-01-{year}-to-31-12-{year}.csv"
        bars = [[d, "EQ", o, h, low, "1", "2", c, "3", v] for d, o, h, low, c, v in part]
        write(tmp_path / name, bars, header)
    result = read(tmp_path)
    assert result.bars.symbols == ("ACME",)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))
    assert (result.findings, result.files_used) == ((), 2)


@pytest.mark.parametrize(
    "header",
    [
        "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen",
        "Data,Otwarcie,Najwyższy,Najniższy,Zamknięcie,Wolumen",
    ],
)
def test_polish_names_of_columns(tmp_path: Path, header: str) -> None:
    result = read(write(tmp_path / "cdr_d.csv", rows(30), header))
    assert result.bars.symbols == ("CDR",)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))


def test_skipped_files_are_named_once(tmp_path: Path) -> None:
    write(tmp_path / "ACME.csv", rows(30))
    (tmp_path / "old").mkdir()
    for name in ("b.zip", "c.xlsx", "d.feather", "e.md", ".hidden"):
        (tmp_path / name).write_text("x")
    result = read(tmp_path)
    assert rules(result) == ["skipped-files"]
    found = finding(result, "skipped-files")
    assert (found.level, found.file, found.rows) == ("warning", "", 5)
    assert found.message.endswith("not read: b.zip, c.xlsx, d.feather, e.md and 1 more")
    (tmp_path / "e.md").unlink()
    assert finding(read(tmp_path), "skipped-files").message.endswith("d.feather, old/")


def test_a_file_name_that_is_no_utf8_is_read_as_latin1(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"M\xfcller.csv")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    write(path, [*rows(30), ["x", *rows(1)[0][1:]]])
    result = read(tmp_path)
    assert result.bars.symbols == ("Müller",)
    assert finding(result, "date-unreadable").file == "Müller.csv"
    assert result.bars.digest()
