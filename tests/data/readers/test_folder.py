"""Which files of a folder are read, their symbols, and what their bytes may hide."""

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bar_files import HEADER, finding, numbers, read, read_cells, rows, rules, write

from stockenh.data.readers.file_names import symbol_of


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
        *((f"{name}.csv", name) for name in ("NAN", "TRUE", "ON", "Y", "BRK.B", "M&M", "BRK-B", "a")),
    ],
)
def test_the_symbol_in_a_file_name(name, symbol):
    assert symbol_of(Path("bars") / name) == symbol


def test_yearly_files_of_the_indian_exchange_join(tmp_path):
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


@pytest.mark.parametrize("names", ["Najwyzszy,Najnizszy,Zamkniecie", "Najwyższy,Najniższy,Zamknięcie"])
def test_polish_names_of_columns(tmp_path, names):
    result = read(write(tmp_path / "cdr_d.csv", rows(30), f"Data,Otwarcie,{names},Wolumen"))
    assert result.bars.symbols == ("CDR",)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))


def test_skipped_files_are_named_once(tmp_path):
    write(tmp_path / "ACME.csv", rows(30))
    (tmp_path / "old").mkdir()
    for name in ("b.zip", "c.xlsx", "d.feather", "e.md", ".hidden"):
        (tmp_path / name).write_text("x")
    result = read(tmp_path)
    assert rules(result) == ["skipped-files"]
    words = "b.zip, c.xlsx, d.feather, e.md and 1 more"
    finding(result, "skipped-files", words, level="warning", file="", rows=5)
    (tmp_path / "e.md").unlink()
    finding(read(tmp_path), "skipped-files", "d.feather, old/")


def test_a_file_name_that_is_no_utf8_is_read_as_latin1(tmp_path):
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


def quoted_rows():
    return [[*row, f'"bar, {i}"'] for i, row in enumerate(rows(140))]


def test_a_stray_quote_costs_its_line_and_not_the_lines_up_to_the_next(tmp_path):
    cells = quoted_rows()
    cells[40][6] = '"bar'
    cells[90][1] = '"' + cells[90][1]
    result = read_cells(tmp_path, cells, f"{HEADER},Note")
    finding(result, "stray-quote", "2 of 141 lines", level="drop", file="ACME.csv", rows=2)
    np.testing.assert_array_equal(result.bars.ohlcv, np.delete(numbers(140), [40, 90], axis=0))
    cells = quoted_rows()
    cells[-1][1] = '"5'
    assert len(read_cells(tmp_path, cells, f"{HEADER},Note").bars) == 139
    result = read_cells(tmp_path, [[*row, '"bar'] for row in rows(140)], f"{HEADER},Note")
    finding(result, "unreadable-file", "quotation mark that is not closed")


@pytest.mark.parametrize(
    ("name", "inside", "kind", "fix"),
    [
        ("bars.zip", "ACME.csv", "a ZIP archive", "unpack it"),
        ("bars.csv", "ACME.csv", "a ZIP archive", "unpack it"),
        ("bars.xlsx", "xl/workbook.xml", "an Excel workbook", "save its sheet as CSV"),
    ],
)
def test_archives_and_workbooks_are_recognised(tmp_path, name, inside, kind, fix):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("[Content_Types].xml", "x")
        archive.writestr(inside, "x")
    finding(read(tmp_path / name), "unreadable-file", kind, fix)


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("GZ.csv.gz", lambda text: gzip.compress(text.encode())),
        ("ZIPPED.csv", lambda text: gzip.compress(text.encode())),
        ("BOM.csv", lambda text: text.encode("utf-8-sig")),
        ("WIDE.csv", lambda text: text.encode("utf-16")),
        ("COMMA.csv", lambda text: text.replace(",", ";").replace(".", ",").encode()),
        ("TABS.tsv", lambda text: text.replace(",", "\t").encode()),
        ("MAC.csv", lambda text: text.replace("\n", "\r").encode()),
    ],
)
def test_what_a_file_holds_counts_more_than_its_name(tmp_path, name, encode):
    path = write(tmp_path / name, rows(30))
    path.write_bytes(encode(path.read_text()))
    result = read(tmp_path)
    assert (result.bars.symbols, result.findings) == ((name.partition(".")[0],), ())
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))
