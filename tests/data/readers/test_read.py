"""Folders and files of bars: what is refused, cut, adjusted and reported, and what never happens."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from bar_files import HEADER, cells_of, dates, finding, numbers, read, read_cells, rows, rules, write
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stockenh.data.bars import adjust_bars
from stockenh.data.readers import ReadSettings, read_bars
from stockenh.errors import DataError


def test_a_missing_path_and_a_folder_without_tables_raise(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: .*data\.path"):
        read(tmp_path / "nowhere")
    (tmp_path / ".hidden.csv").write_text(HEADER)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"only notes\.md; .*data\.path"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "rule", "message"),
    [
        (b"", "empty-file", "empty"),
        (b"\n \n", "empty-file", "empty"),
        (HEADER.encode(), "empty-file", "a header and no rows"),
        (b'{\n    "Note": "Thank you! Our standard API"\n}', "error-text", '\'{ "Note": "Thank you!'),
        (b"<!DOCTYPE html><html><body>Too many requests</body>", "error-text", "'<!DOCTYPE html><html>"),
        (b"Exceeded the daily hits limit", "error-text", "'Exceeded the daily hits limit'"),
        (b"404: Not Found, try again later", "error-text", "404: Not Found, try again later"),
        (b"Error,rate limit\n", "error-text", "Error,rate limit"),
        (b"Sorry;no;data", "error-text", "Sorry;no;data"),
        (b"Date,Open\n2020-01-01,5", "column-missing", "high, low, close; the file has Date, Open"),
        (b"Date,Open,High,Low,Prev_Close,PrvsClsgPric\n2020-01-01,1,1,1,1,1", "column-missing", "close; the"),
        (b'a,"b\n1,2\n', "unreadable-file", "not a table"),
        (b"PAR1 not really", "unreadable-file", "not a Parquet file"),
        (bytes(range(32)) * 20, "unreadable-file", "not text but binary data"),
    ],
)
def test_a_file_without_bars_is_an_error_with_its_reason(tmp_path, content, rule, message):
    (tmp_path / "BAD.csv").write_bytes(content)
    write(tmp_path / "GOOD.csv", rows(30))
    result = read(tmp_path)
    assert finding(result, rule, message, level="error", file="BAD.csv").fix
    assert (result.bars.symbols, result.files, result.files_used) == (("GOOD",), 2, 1)


def test_a_missing_column_is_mended_by_a_mapping(tmp_path):
    path = write(tmp_path / "ACME.csv", rows(30), "Day,First,Top,Bottom,Final,Shares")
    finding(read(path), "column-missing", "data.columns.close=NAME")
    names = {"open": "First", "high": "Top", "low": "Bottom", "close": "Final", "volume": "shares"}
    np.testing.assert_array_equal(read(path, columns=names).bars.ohlcv, numbers(30))
    for part in ("date", "volume"):
        finding(read(path, columns=names | {part: "When"}), "mapped-column-missing", "'When'")
    path = write(path, [[*row, row[1]] for row in rows(30)], f"{HEADER},Settled")  # beats the exact name
    bars = read(path, columns={"close": "settled"}).bars
    np.testing.assert_array_equal(bars.ohlcv[:, 3], numbers(30)[:, 0])


def test_a_header_that_is_absent_or_ambiguous_is_recognised(tmp_path):
    headless = read_cells(tmp_path, rows(30)[1:], ",".join(rows(30)[0]))
    finding(headless, "column-missing", "a line of names such as Date,Open")
    cells = [[*row[:5], row[4], row[5]] for row in rows(30)]
    result = read_cells(tmp_path, cells, "Date,Open,High,Low,Last,LTP,Volume")
    finding(result, "several-closes", "'Last' was taken", "data.columns.close='LTP'", level="warning")


@pytest.mark.parametrize("bars", [1, 19])
def test_a_short_history_is_an_error(tmp_path, bars):
    result = read_cells(tmp_path, rows(bars))
    finding(result, "too-short", f"{bars} of the 20 bars", level="error", rows=bars)


@pytest.mark.parametrize(
    ("first", "last", "offsets", "rule", "fields"),
    [
        (60, 90, [0, 60, 110], "gap", {"level": "warning", "rows": 1, "date": dates(140)[90]}),
        # a stretch that is too short is left out and counted
        (10, 40, [0, 100], "short-stretch", {"level": "drop", "rows": 10, "date": dates(140)[0]}),
    ],
)
def test_a_long_gap_cuts_the_series_and_nothing_is_filled(tmp_path, first, last, offsets, rule, fields):
    cells, bad = rows(140), rows(140)
    for row in bad[first:last]:
        row[1] = "0"
    del cells[first:last]
    result = read_cells(tmp_path, cells, max_gap_days=30)
    finding(result, rule, **fields)
    assert set(result.bars.symbols) == {"ACME"} and result.bars.offsets.tolist() == offsets
    assert read_cells(tmp_path, bad).bars.offsets.tolist() == offsets, "rows left out can open a gap"
    assert read_cells(tmp_path, cells, max_gap_days=60).bars.symbols == ("ACME",)


def test_unsorted_rows_ambiguous_dates_and_time_zones_warn_and_newest_first_does_not(tmp_path):
    cells = rows(30)
    assert read_cells(tmp_path, cells[::-1]).findings == ()
    cells[3], cells[4] = cells[4], cells[3]
    result = read_cells(tmp_path, cells)
    finding(result, "unsorted", rows=1, level="warning")
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))
    days = [f"{month:02d}/{month:02d}/{year}" for year in (2019, 2020) for month in range(1, 13)]
    result = read_cells(tmp_path, cells_of(numbers(24), days), max_gap_days=60)
    finding(result, "date-order", level="warning")
    zoned = [f"{day} 00:00:00-05:00" for day in dates(30)]
    finding(read_cells(tmp_path, cells_of(numbers(30), zoned)), "time-zone", "-05:00")


def test_symbols_that_end_early_are_named_once_for_the_folder(tmp_path):
    for name, bars in (("LONG", 60), ("EARLY", 40), ("LATE", 55)):
        write(tmp_path / f"{name}.csv", rows(bars))
    words = f"EARLY ({dates(40)[-1]})"
    finding(read(tmp_path), "ends-early", words, level="warning", file="", rows=1)


@pytest.mark.parametrize(
    ("ohlcv", "adj_close", "expected"),
    [
        # a dividend factor of 0.99 before the second bar, a 2:1 split before the third
        (
            [[100, 110, 90, 100, 10], [100, 110, 90, 100, 10], [50, 55, 45, 50, 20]],
            [49.5, 50, 50],
            [[49.5, 54.45, 44.55, 49.5, 10], [50, 55, 45, 50, 10], [50, 55, 45, 50, 10]],
        ),
        # a 1:20 reverse split
        ([[1, 1, 1, 1, 2000], [20, 20, 20, 20, 100]], [20, 20], [[20] * 4 + [2000]] * 2),
    ],
)
def test_adjustment_by_hand(ohlcv, adj_close, expected):
    given = np.array(ohlcv, np.float64)
    kept = given.copy()
    np.testing.assert_allclose(adjust_bars(given, np.array(adj_close, np.float64)), expected)
    np.testing.assert_array_equal(given, kept)  # volume is in the shares of the first bar


def test_files_are_adjusted_unless_configured_otherwise_or_prices_vanish(tmp_path):
    cells = [[*row, row[4]] for row in rows(30)]
    cells[20][1:] = ["1.5e-323", "1.5e-323", "5e-324", "1.5e-323", "9", "5e-324"]  # the low becomes 0
    result = read_cells(tmp_path, cells, f"{HEADER},Adj Close")
    finding(result, "adj-close-overflow", level="error", date=dates(30)[20], rows=1)
    assert len(result.bars) == 0
    cells = [[*row, str(float(row[4]) / 2)] for row in rows(30)]
    path = write(tmp_path / "ACME.csv", cells, f"{HEADER},Adj Close")
    np.testing.assert_allclose(read(path).bars.ohlcv[:, :4], numbers(30)[:, :4] / 2)
    np.testing.assert_array_equal(read(path, adjust=False).bars.ohlcv, numbers(30))


ODD_CELLS = st.sampled_from(["0", "-1", "", "1e10", "inf", "x", "55", "103.5", "9999"])


@settings(max_examples=40)
@given(later=st.lists(st.lists(ODD_CELLS, min_size=5, max_size=5), max_size=30))
def test_later_rows_never_change_earlier_kept_rows(later):
    """Earlier rows hold one of each fault; what follows them is empty, good or absurd."""
    early = rows(60)
    early[5][1], early[9][3], early[13][4], early[20][2] = "0", "", "9.9", "90"
    early[30][1:5] = early[31][1:5]
    tail = [[day, *cells] for day, cells in zip(dates(100)[60:], later, strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        before = read_cells(Path(folder), early).bars
        after = read_cells(Path(folder), early + tail).bars
    n = len(before)
    assert n == 56 and (after.time[:n] == before.time).all()
    assert after.ohlcv[:n].tobytes() == before.ohlcv.tobytes()


@settings(max_examples=200)
@given(st.binary(max_size=400), st.booleans(), st.sampled_from([".csv", ".txt", ".parquet"]))
@example(b"\x00,\x00\n\x00,1", False, ".csv")
@example(b'"', True, ".csv")
@example(b"99999999999999999999,1e999,-inf,1,1,1", True, ".csv")
@example(b"9223372036854775807,1,1,1,1,1\n-9223372036854775808,1,1,1,1,1", True, ".csv")
def test_garbage_never_raises(content, header, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"X{suffix}"
        path.write_bytes((HEADER.encode() + b"\n" if header else b"") + content)
        result = read_bars(path, ReadSettings())
    assert len(result.bars) == 0 and result.findings


ODD_TEXTS = ["2020-01-01", "1/2/20", "02-Jan-2024", "1e308", "-1e308", "nan", "inf", "1,000", "5", "0", ""]
CELL = st.sampled_from(ODD_TEXTS) | st.text(max_size=6) | st.floats().map(repr) | st.integers().map(str)


@settings(max_examples=60)
@given(st.lists(st.lists(CELL, min_size=1, max_size=8), min_size=1, max_size=12))
@example([["2020-01-01", *["1e-320"] * 4, "5", "1e308"]])
@example([["2020-01-01", *["1e-320"] * 4, "5", "1"], ["2020-01-02", *["1e9"] * 4, "5", "1"]])
@example([["2020-01-01", *["5"] * 4, "1e308", "5"], ["2020-01-02", *["50"] * 4, "5", "5"]])
def test_garbage_cells_never_raise_and_never_get_in(cells):
    text = "\n".join([f"{HEADER},Adj Close", *(",".join(row) for row in cells)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.csv"
        path.write_text(text, "utf-8", "replace")
        result = read_bars(path, ReadSettings(min_bars=1))
    bars = result.bars.ohlcv
    assert np.isfinite(bars).all() and (bars[:, :4] > 0).all() and (bars[:, 4] >= 0).all()
    assert len(result.bars) or any(f.level == "error" for f in result.findings)


def test_findings_are_in_the_order_of_the_files(tmp_path):
    for seed, name in enumerate(("C", "A", "B")):
        cells = rows(60, seed)
        cells[4][1] = "0"
        write(tmp_path / f"{name}.csv", cells)
    result = read(tmp_path)
    assert [f.file for f in result.findings] == ["A.csv", "B.csv", "C.csv"]
    assert set(rules(result)) == {"price-not-positive"}


def test_a_number_that_falls_into_two_cells_is_left_out_and_counted(tmp_path):
    cells = rows(140)
    cells[50][5] = "1,769"
    result = read_cells(tmp_path, cells)
    finding(result, "too-many-cells", level="drop", rows=1)
    np.testing.assert_array_equal(result.bars.ohlcv, np.delete(numbers(140), 50, axis=0))
    result = read_cells(tmp_path, [[*row[:5], "1,769"] for row in cells])
    assert len(result.bars) == 0 and finding(result, "too-many-cells", level="error")


def test_a_part_without_adjusted_close_does_not_undo_the_adjustment_of_the_other(tmp_path):
    cells = [["A", *row, str(float(row[4]) / 2)] for row in rows(140)]
    write(tmp_path / "p1.csv", cells[:70], f"Symbol,{HEADER},Adj Close")
    alone = read(tmp_path)
    write(tmp_path / "p2.csv", [row[:-1] for row in cells[70:]], f"Symbol,{HEADER}")
    both = read(tmp_path)
    assert alone.bars.digest() == both.bars.digest()
    np.testing.assert_allclose(both.bars.ohlcv[:, 3], numbers(140)[:70, 3] / 2)
    finding(both, "adj-close-absent", file="p2.csv", level="error")


def test_a_later_split_leaves_every_earlier_bar_as_it_was(tmp_path):
    def bars(split):
        """20 for 1 at bar `split`, known from the adjusted close."""
        factor = np.where(np.arange(300) < split, 1.0, 0.05)[:, None]
        values = np.c_[[10, 11, 9, 10.5] * factor, 7.0 + np.arange(300), np.full(300, 10.5)]
        return read_cells(tmp_path, cells_of(values), f"{HEADER},Adj Close").bars.ohlcv

    never, late = bars(999), bars(280)
    np.testing.assert_array_equal(never[:280], late[:280])
    assert late[281, 4] == pytest.approx((7 + 281) / 20)  # in the shares of the first bar
