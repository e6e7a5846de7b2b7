"""Folders and files of bars: what is refused, cut, adjusted and reported, and what never happens."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from bar_files import HEADER, dates, finding, numbers, read, read_cells, rows, rules, write
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stockenh.data.bars import adjust_bars
from stockenh.data.readers import ReadSettings, read_bars
from stockenh.errors import DataError


def test_a_missing_path_and_a_folder_without_tables_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; set data\.path"):
        read(tmp_path / "nowhere")
    (tmp_path / ".hidden.csv").write_text(HEADER)
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"no \.csv, \.tsv, \.txt or .*, only notes\.md; set data\.path"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "rule", "message"),
    [
        (b"", "empty-file", "empty"),
        (b"\n \n", "empty-file", "empty"),
        (HEADER.encode(), "empty-file", "a header and no rows"),
        (
            b'{\n    "Note": "Thank you for using Alpha Vantage! Our standard API"\n}',
            "error-text",
            '\'{ "Note": "Thank you for using Alpha Vantage!',
        ),
        (b"<!DOCTYPE html><html><body>Too many requests</body>", "error-text", "'<!DOCTYPE html><html>"),
        (b"Exceeded the daily hits limit", "error-text", "'Exceeded the daily hits limit'"),
        (b"Date,Open\n2020-01-01,5", "column-missing", "high, low, close; the file has Date, Open"),
        (b'a,"b\n1,2\n', "unreadable-file", "not a table"),
        (b"PAR1 not really", "unreadable-file", "not a Parquet file"),
    ],
)
def test_a_file_without_bars_is_an_error_with_its_reason(
    tmp_path: Path, content: bytes, rule: str, message: str
) -> None:
    (tmp_path / "BAD.csv").write_bytes(content)
    write(tmp_path / "GOOD.csv", rows(30))
    result = read(tmp_path)
    found = finding(result, rule)
    assert (found.level, found.file) == ("error", "BAD.csv")
    assert message in found.message
    assert found.fix
    assert result.bars.symbols == ("GOOD",)
    assert (result.files, result.files_used) == (2, 1)


def test_a_missing_column_is_mended_by_a_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "ACME.csv", rows(30), "Day,First,Top,Bottom,Final,Shares")
    found = finding(read(path), "column-missing")
    assert "data.columns.close=NAME" in found.fix
    names = {"open": "First", "high": "Top", "low": "Bottom", "close": "Final", "volume": "shares"}
    result = read(path, columns=names)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))
    absent = finding(read(path, columns=names | {"date": "When"}), "mapped-column-missing")
    assert "'When'" in absent.message


def test_a_file_without_a_header_line_is_recognised(tmp_path: Path) -> None:
    found = finding(read_cells(tmp_path, rows(30)[1:], ",".join(rows(30)[0])), "column-missing")
    assert found.fix.startswith("begin the file with a line of names such as Date,Open")


def test_an_explicit_mapping_beats_the_guess(tmp_path: Path) -> None:
    cells = [[*row, row[1]] for row in rows(30)]
    result = read_cells(tmp_path, cells, HEADER + ",Settled", columns={"close": "settled"})
    np.testing.assert_array_equal(result.bars.ohlcv[:, 3], numbers(30)[:, 0])


def test_two_columns_that_could_be_the_close_warn(tmp_path: Path) -> None:
    cells = [[*row[:5], row[4], row[5]] for row in rows(30)]
    found = finding(read_cells(tmp_path, cells, "Date,Open,High,Low,Last,LTP,Volume"), "several-closes")
    assert found.level == "warning" and "'Last' was taken" in found.message
    assert "data.columns.close='LTP'" in found.fix


def test_an_index_without_volume_gets_zeros_and_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "INDEX.csv", [row[:5] for row in rows(30)], "Date,Open,High,Low,Close")
    result = read(path)
    assert finding(result, "no-volume").level == "warning"
    assert (result.bars.ohlcv[:, 4] == 0).all()


@pytest.mark.parametrize("bars", [1, 19])
def test_a_short_history_is_an_error(tmp_path: Path, bars: int) -> None:
    result = read_cells(tmp_path, rows(bars))
    found = finding(result, "too-short")
    assert (found.level, found.rows) == ("error", bars)
    assert f"the longest usable stretch has {bars} of the 20 bars" in found.message


def test_a_long_gap_cuts_the_series_and_nothing_is_filled(tmp_path: Path) -> None:
    cells = rows(140)
    del cells[60:90]
    result = read_cells(tmp_path, cells, max_gap_days=30)
    assert result.bars.symbols == ("ACME", "ACME")
    assert result.bars.offsets.tolist() == [0, 60, 110]
    found = finding(result, "gap")
    assert (found.level, found.rows, found.date) == ("warning", 1, dates(140)[90])
    assert read_cells(tmp_path, cells, max_gap_days=60).bars.symbols == ("ACME",)


def test_a_short_stretch_between_gaps_is_left_out_and_counted(tmp_path: Path) -> None:
    cells = rows(140)
    del cells[10:40]
    result = read_cells(tmp_path, cells)
    found = finding(result, "short-stretch")
    assert (found.level, found.rows, found.date) == ("drop", 10, dates(140)[0])
    assert len(result.bars) == 100


def test_rows_left_out_can_open_a_gap(tmp_path: Path) -> None:
    cells = rows(140)
    for row in cells[60:90]:
        row[1] = "0"
    assert read_cells(tmp_path, cells).bars.offsets.tolist() == [0, 60, 110]


def test_unsorted_rows_are_sorted_with_a_warning_and_newest_first_without(tmp_path: Path) -> None:
    cells = rows(30)
    assert read_cells(tmp_path, cells[::-1]).findings == ()
    cells[3], cells[4] = cells[4], cells[3]
    result = read_cells(tmp_path, cells)
    assert (finding(result, "unsorted").rows, finding(result, "unsorted").level) == (1, "warning")
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))


def test_ambiguous_dates_and_time_zones_warn(tmp_path: Path) -> None:
    days = [f"{month:02d}/{month:02d}/{year}" for year in (2019, 2020) for month in range(1, 13)]
    cells = [[day, *row[1:]] for day, row in zip(days, rows(24), strict=True)]
    result = read_cells(tmp_path, cells, max_gap_days=60)
    assert finding(result, "date-order").level == "warning"
    zoned = [[f"{row[0]} 00:00:00-05:00", *row[1:]] for row in rows(30)]
    assert "-05:00" in finding(read(write(tmp_path / "ZONE.csv", zoned)), "time-zone").message


def test_symbols_that_end_early_are_named_once_for_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "LONG.csv", rows(60))
    write(tmp_path / "EARLY.csv", rows(40))
    write(tmp_path / "LATE.csv", rows(55))
    found = finding(read(tmp_path), "ends-early")
    assert (found.level, found.file, found.rows) == ("warning", "", 1)
    assert f"EARLY ({dates(40)[-1]})" in found.message


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
def test_adjustment_by_hand(ohlcv: list, adj_close: list, expected: list) -> None:
    given = np.array(ohlcv, np.float64)
    kept = given.copy()
    np.testing.assert_allclose(adjust_bars(given, np.array(adj_close, np.float64)), expected)
    np.testing.assert_array_equal(given, kept)  # volume is in the shares of the first bar


def test_an_adjusted_close_that_makes_prices_vanish_is_an_error(tmp_path: Path) -> None:
    cells = [[*row, row[4]] for row in rows(30)]
    cells[20][1:] = ["1.5e-323", "1.5e-323", "5e-324", "1.5e-323", "9", "5e-324"]  # the low becomes 0
    result = read_cells(tmp_path, cells, f"{HEADER},Adj Close")
    found = finding(result, "adj-close-overflow")
    assert (found.level, found.date, found.rows) == ("error", dates(30)[20], 1)
    assert len(result.bars) == 0


def test_files_are_adjusted_unless_told_otherwise(tmp_path: Path) -> None:
    cells = [[*row, str(float(row[4]) / 2)] for row in rows(30)]
    path = write(tmp_path / "ACME.csv", cells, f"{HEADER},Adj Close")
    np.testing.assert_allclose(read(path).bars.ohlcv[:, :4], numbers(30)[:, :4] / 2)
    np.testing.assert_array_equal(read(path, adjust=False).bars.ohlcv, numbers(30))


@settings(max_examples=40)
@given(
    later=st.lists(
        st.lists(
            st.sampled_from(["0", "-1", "", "1e10", "inf", "x", "55", "103.5", "9999"]),
            min_size=5,
            max_size=5,
        ),
        max_size=30,
    )
)
def test_later_rows_never_change_earlier_kept_rows(later: list[list[str]]) -> None:
    """Earlier rows hold one of each fault; what follows them is empty, good or absurd."""
    early = rows(60)
    early[5][1], early[9][3], early[13][4], early[20][2] = "0", "", "9.9", "90"
    early[30][1:5] = early[31][1:5]
    tail = [[day, *cells] for day, cells in zip(dates(100)[60:], later, strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        before = read(write(Path(folder) / "ACME.csv", early)).bars
        after = read(write(Path(folder) / "ACME.csv", early + tail)).bars
    n = len(before)
    assert n == 56
    assert (after.time[:n] == before.time).all()
    assert after.ohlcv[:n].tobytes() == before.ohlcv.tobytes()


@settings(max_examples=200)
@given(
    content=st.binary(max_size=400),
    header=st.booleans(),
    suffix=st.sampled_from([".csv", ".txt", ".parquet"]),
)
@example(content=b"\x00,\x00\n\x00,1", header=False, suffix=".csv")
@example(content=b'"', header=True, suffix=".csv")
@example(content=b"99999999999999999999,1e999,-inf,1,1,1", header=True, suffix=".csv")
@example(content=b"9223372036854775807,1,1,1,1,1\n-9223372036854775808,1,1,1,1,1", header=True, suffix=".csv")
def test_garbage_never_raises(content: bytes, header: bool, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"X{suffix}"
        path.write_bytes((HEADER.encode() + b"\n" if header else b"") + content)
        result = read_bars(path, ReadSettings())
    assert len(result.bars) == 0
    assert result.findings


CELL = st.one_of(
    st.sampled_from(
        ["2020-01-01", "1/2/20", "02-Jan-2024", "1e308", "-1e308", "nan", "inf", "1,000", "5", "0", ""]
    ),
    st.text(max_size=6),
    st.floats().map(repr),
    st.integers().map(str),
)


@settings(max_examples=60)
@given(cells=st.lists(st.lists(CELL, min_size=1, max_size=8), min_size=1, max_size=12))
@example(cells=[["2020-01-01", *["1e-320"] * 4, "5", "1e308"]])
@example(cells=[["2020-01-01", *["1e-320"] * 4, "5", "1"], ["2020-01-02", *["1e9"] * 4, "5", "1"]])
@example(cells=[["2020-01-01", *["5"] * 4, "1e308", "5"], ["2020-01-02", *["50"] * 4, "5", "5"]])
def test_garbage_cells_never_raise_and_never_get_in(cells: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.csv"
        path.write_text(
            "\n".join([f"{HEADER},Adj Close", *(",".join(row) for row in cells)]), "utf-8", "replace"
        )
        result = read_bars(path, ReadSettings(min_bars=1))
    bars = result.bars.ohlcv
    assert np.isfinite(bars).all()
    assert (bars[:, :4] > 0).all()
    assert (bars[:, 4] >= 0).all()
    assert len(result.bars) or any(f.level == "error" for f in result.findings)


def test_findings_are_in_the_order_of_the_files(tmp_path: Path) -> None:
    for name in ("C", "A", "B"):
        cells = rows(60)
        cells[4][1] = "0"
        write(tmp_path / f"{name}.csv", cells)
    result = read(tmp_path)
    assert [f.file for f in result.findings] == ["A.csv", "B.csv", "C.csv"]
    assert set(rules(result)) == {"price-not-positive"}


def test_a_number_that_falls_into_two_cells_is_left_out_and_counted(tmp_path: Path) -> None:
    cells = rows(140)
    cells[50][5] = "1,769"
    result = read_cells(tmp_path, cells)
    found = finding(result, "too-many-cells")
    assert (found.level, found.rows) == ("drop", 1)
    np.testing.assert_array_equal(result.bars.ohlcv, np.delete(numbers(140), 50, axis=0))
    result = read_cells(tmp_path, [[*row[:5], "1,769"] for row in cells])
    assert len(result.bars) == 0 and finding(result, "too-many-cells").level == "error"


def test_a_part_without_adjusted_close_does_not_undo_the_adjustment_of_the_other(tmp_path: Path) -> None:
    cells = [["A", *row, str(float(row[4]) / 2)] for row in rows(140)]
    write(tmp_path / "p1.csv", cells[:70], f"Symbol,{HEADER},Adj Close")
    alone = read(tmp_path)
    write(tmp_path / "p2.csv", [row[:-1] for row in cells[70:]], f"Symbol,{HEADER}")
    both = read(tmp_path)
    assert alone.bars.digest() == both.bars.digest()
    np.testing.assert_allclose(both.bars.ohlcv[:, 3], numbers(140)[:70, 3] / 2)
    found = finding(both, "adj-close-absent")
    assert (found.file, found.level) == ("p2.csv", "error")


def test_a_later_split_leaves_every_earlier_bar_as_it_was(tmp_path: Path) -> None:
    def bars(split: int) -> NDArray[np.float64]:
        """20 for 1 at bar `split`, known from the adjusted close."""
        cells = []
        for i, day in enumerate(dates(300)):
            prices = np.array([10, 11, 9, 10.5]) * (1.0 if i < split else 0.05)
            cells.append([day, *map(str, prices.tolist()), str(7 + i), "10.5"])
        return read_cells(tmp_path, cells, f"{HEADER},Adj Close").bars.ohlcv

    never, late = bars(999), bars(280)
    np.testing.assert_array_equal(never[:280], late[:280])
    assert late[281, 4] == pytest.approx((7 + 281) / 20)  # in the shares of the first bar
