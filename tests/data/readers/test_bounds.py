"""What a file holds never costs much memory or time, and never reaches the terminal as it is."""

import gzip
import io
import os
import socket
import zlib

import numpy as np
import polars as pl
import pytest
from bar_files import HEADER, finding, numbers, read, read_cells, rows, write
from rich.console import Console

from stockenh.commands.data_check import findings_table
from stockenh.data.readers import list_files
from stockenh.data.readers.raw import MAX_COLUMNS
from stockenh.errors import DataError


def symbols(count):
    return b"".join(b"S%d,2020-01-02,1,1,1,1,1\n" % i for i in range(count))


def bomb():
    packer = zlib.compressobj(9, wbits=31)
    million = b"2020-01-02,1,1,1,1,1\n" * 50_000
    return b"".join(packer.compress(million) for _ in range(150)) + packer.flush()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("X.csv.gz", bomb(), "128 MiB"),
        ("X.csv", gzip.compress(b"\n" * 1_000_000) * 140, "128 MiB"),
        ("X.csv", HEADER.encode() + b"\n" * 3_000_000, "lines"),
        ("X.csv", HEADER.encode() + b"\n" + b"," * 12_000_000, "cells"),
        ("X.csv", b"Date" + b",x" * 200_000 + b"\n" + b"1," * 200_000, "200,001 columns"),
        ("X.csv", HEADER.encode() + b",x" * 19_000 + b"\n1" * 2_000, "cells"),
        ("X.csv", f"Symbol,{HEADER}\n".encode() + symbols(20_001), "symbols"),
    ],
)  # fmt: skip
def test_a_bomb_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert finding(read(tmp_path), "too-large", words, level="error", file=name).fix


def test_a_parquet_of_too_many_rows_or_columns_or_bytes_is_refused(tmp_path):
    path = tmp_path / "X.parquet"
    pl.DataFrame({"open": pl.repeat(1.0, 2_000_000, eager=True)}).write_parquet(path)
    finding(read(path), "too-large", "2,000,000 rows", level="error")
    pl.DataFrame({f"c{i}": [1] for i in range(MAX_COLUMNS + 1)}).write_parquet(path)
    finding(read(path), "too-large", "20,001 columns", level="error")
    pl.DataFrame({"open": [str(i) * 40_000_000 for i in range(8)]}).write_parquet(path)
    finding(read(path), "too-large", "256 MiB", level="error")


def test_nested_columns_cost_nothing(tmp_path):
    bars = pl.DataFrame(numbers(30), schema=["open", "high", "low", "close", "volume"])
    deep = pl.Series("deep", [1] * 30)
    for _ in range(20):
        deep = deep.implode().list.head(1).new_from_index(0, 30)
    frame = bars.with_columns(pl.Series("date", [[i] * 1_000 for i in range(30)]))
    path = tmp_path / "X.parquet"
    frame.write_parquet(path)
    finding(read(path), "date-unreadable", "'a List'", level="error")
    frame.with_columns(deep).write_parquet(path)
    finding(read(path), "unreadable-file", "nested too deeply", level="error")


def test_many_tickers_side_by_side_are_read(tmp_path):
    tickers = [f"S{i}" for i in range(600)]
    header = "Date," + ",".join(f"{field}_{t}" for t in tickers for field in HEADER.split(",")[1:])
    result = read(write(tmp_path / "all.csv", [[row[0], *row[1:] * 600] for row in rows(30)], header))
    assert len(set(result.bars.symbols)) == 600


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_pipes_sockets_devices_and_folders_with_the_name_of_a_file_are_refused_at_once(tmp_path, name):
    write(tmp_path / "ACME.csv", rows(30))
    os.mkfifo(tmp_path / name)
    finding(read(tmp_path), "skipped-files", f"{name} (not a regular file)", rows=1)
    with pytest.raises(DataError, match="not a regular file"):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / name))
        with pytest.raises(DataError, match="not a regular file"):
            read(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(DataError, match="not a regular file"):
        list_files(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    finding(read(tmp_path), "skipped-files", f"{name}/", rows=1)


@pytest.mark.parametrize("column", range(6))
def test_a_number_of_thousands_of_digits_costs_its_row(tmp_path, column):
    cells = rows(30)
    cells[9][column] = "9" * 5_000
    result = read_cells(tmp_path, cells)
    np.testing.assert_array_equal(result.bars.ohlcv, np.delete(numbers(30), 9, axis=0))
    assert all(len(found.message) < 300 for found in result.findings)


def test_nul_bytes_and_wide_characters(tmp_path):
    text = write(tmp_path / "ACME.csv", rows(30)).read_text()
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        (tmp_path / "ACME.csv").write_bytes(text.encode(encoding))
        np.testing.assert_array_equal(read(tmp_path).bars.ohlcv, numbers(30))
    (tmp_path / "ACME.csv").write_bytes(text.encode().replace(b"2020-01-15", b"2020-01-15\0"))
    finding(read(tmp_path), "unreadable-file", "binary", level="error")
    later = [[*row, "x" * 400] for row in rows(30)]
    later[25][0] += "\0"
    assert len(read_cells(tmp_path, later, f"{HEADER},Note").bars) == 29


@pytest.mark.parametrize(
    "content", [b"x" * 3_000_000, HEADER.encode() + b"\n2020-01-02," + b"x" * 3_000_000, b'"' * 500_000]
)
def test_very_long_lines_are_a_finding(tmp_path, content):
    (tmp_path / "X.csv").write_bytes(content)
    result = read(tmp_path)
    assert len(result.bars) == 0
    assert all(len(found.message) < 400 for found in result.findings) and result.findings


NASTY = "\x1b]0;owned\x07[red]A[/] :smile: [/b] \u202e\x9b2J\\"


def test_control_characters_and_markup_never_reach_the_terminal(tmp_path):
    bad = [[NASTY, *row] for row in rows(30)]
    bad[3][2] = bad[4][1] = bad[5][1] = NASTY
    write(tmp_path / f"{NASTY.replace('/', '')}.csv", bad, f"Symbol,{HEADER},{NASTY},{NASTY}")
    write(tmp_path / "B.csv", rows(30), f"{NASTY},{NASTY},Open,High")
    (tmp_path / f"{NASTY.replace('/', '')}.csv.d").mkdir()
    result = read(tmp_path)
    (symbol,) = set(result.bars.symbols)
    assert symbol.isprintable() and "[red]A[/]" in symbol
    console = Console(record=True, width=200, force_terminal=True, color_system=None, file=io.StringIO())
    console.print(findings_table(result.findings))
    shown = console.export_text()
    assert "[red]A[" in shown and "smile" in shown
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []


def test_a_path_with_control_characters_is_printable_in_the_message(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path / "a\x1b[2Jb")
    assert str(error.value).isprintable()
