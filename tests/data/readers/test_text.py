"""Text files that are not what their name says, and lines that a quotation mark or a line end hides."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bar_files import HEADER, Row, finding, numbers, read, read_cells, rows, rules, write


def quoted_rows() -> list[Row]:
    return [[*row, f'"bar, {i}"'] for i, row in enumerate(rows(140))]


def test_a_stray_quote_costs_its_line_and_not_the_lines_up_to_the_next(tmp_path: Path) -> None:
    cells = quoted_rows()
    cells[40][6] = '"bar'
    cells[90][1] = '"' + cells[90][1]
    result = read_cells(tmp_path, cells, f"{HEADER},Note")
    found = finding(result, "stray-quote")
    assert (found.level, found.file, found.rows) == ("drop", "ACME.csv", 2)
    assert "2 of 141 lines" in found.message
    np.testing.assert_array_equal(result.bars.ohlcv, np.delete(numbers(140), [40, 90], axis=0))


def test_a_stray_quote_on_the_last_line_costs_only_that_line(tmp_path: Path) -> None:
    cells = quoted_rows()
    cells[-1][1] = '"5'
    assert len(read_cells(tmp_path, cells, f"{HEADER},Note").bars) == 139


def test_mostly_open_quotes_are_an_error(tmp_path: Path) -> None:
    cells = [[*row, '"bar'] for row in rows(140)]
    found = finding(read_cells(tmp_path, cells, f"{HEADER},Note"), "unreadable-file")
    assert "quotation mark that is not closed" in found.message


@pytest.mark.parametrize("text", ["404: Not Found, try again later", "Error,rate limit\n", "Sorry;no;data"])
def test_a_line_of_text_with_a_separator_is_an_error_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "BAD.csv").write_text(text)
    found = finding(read(tmp_path), "error-text")
    assert found.level == "error"
    assert text.strip() in found.message


def test_line_ends_of_old_macs_are_read(tmp_path: Path) -> None:
    text = write(tmp_path / "ACME.csv", rows(30)).read_text()
    (tmp_path / "ACME.csv").write_bytes(text.replace("\n", "\r").encode())
    result = read(tmp_path)
    assert result.findings == ()
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))


@pytest.mark.parametrize(
    ("name", "inside", "kind", "fix"),
    [
        ("bars.zip", "ACME.csv", "a ZIP archive", "unpack it, and give the folder"),
        ("bars.csv", "ACME.csv", "a ZIP archive", "unpack it, and give the folder"),
        ("bars.xlsx", "xl/workbook.xml", "an Excel workbook", "save its sheet as CSV"),
    ],
)
def test_archives_and_workbooks_are_recognised(
    tmp_path: Path, name: str, inside: str, kind: str, fix: str
) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("[Content_Types].xml", "x")
        archive.writestr(inside, "x")
    found = finding(read(tmp_path / name), "unreadable-file")
    assert (found.message, found.fix) == (f"not bars but {kind}", fix)


def test_binary_data_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "ACME.csv").write_bytes(bytes(range(32)) * 20)
    assert finding(read(tmp_path), "unreadable-file").message == "not text but binary data"


def test_what_a_file_holds_counts_more_than_its_name(tmp_path: Path) -> None:
    text = write(tmp_path / "A.csv", rows(30)).read_bytes()
    (tmp_path / "A.csv").write_bytes(gzip.compress(text))
    (tmp_path / "T.tsv").write_bytes(text.replace(b",", b"\t"))
    result = read(tmp_path)
    assert result.bars.symbols == ("A", "T")
    assert rules(result) == []
