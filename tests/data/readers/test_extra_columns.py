"""Own columns in files: what is read, and what is refused with file, symbol, date and fix."""

import numpy as np
import polars as pl
import pytest

from stockenh.data.extra import ExtraSettings
from stockenh.data.readers import ReadSettings
from stockenh.data.readers.extra_columns import read_extra
from stockenh.errors import ConfigError, DataError

BARS = "Date,Open,High,Low,Close,Volume"
TODAY = np.datetime64("2026-06-01")


def write(folder, **files):
    """Files by name: a name `A_csv` is A.csv."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_csv", ".csv")).write_text(text)
    return folder


def bar_file(own, cells):
    """Bars of two days and more, with one own column."""
    lines = [f"2024-01-{day:02d},10,11,9,10,100,{cell}" for day, cell in enumerate(cells, 1)]
    return "\n".join([f"{BARS},{own}", *lines]) + "\n"


def read(path, past=(), static=(), own=False, **settings):
    wanted = ExtraSettings(list(past), list(static), path=str(path) if own else None)
    return read_extra(path, wanted, ReadSettings(**settings), TODAY)


def values(extra, symbol, column=0):
    at, own = extra.symbols.index(symbol), extra.past[column]
    rows = slice(own.offsets[at], own.offsets[at + 1])
    times = own.time[rows].astype("datetime64[D]").astype(str).tolist()
    return dict(zip(times, own.value[rows].tolist(), strict=True))


def test_columns_beside_the_bars_are_found_by_any_case(tmp_path):
    folder = write(tmp_path, A_csv=bar_file("Sentiment Score", [1, 2]), B_csv=bar_file("volatility", [3]))
    extra, found = read(folder, past=["sentiment_score"])
    assert found == () and extra.symbols == ("A",)
    assert values(extra, "A") == {"2024-01-01": 1.0, "2024-01-02": 2.0}


def test_columns_may_lie_in_several_files_of_their_own(tmp_path):
    folder = write(
        tmp_path,
        pe_csv="symbol,date,pe\nB,2024-01-01,20\nA,2024-02-01,11\nA,2024-01-01,10\n",
        sectors_csv="ticker,sector\nA,Tech\nB,NA\nC,\n",
    )
    extra, found = read(folder, past=["pe"], static=["sector"], own=True)
    assert found == ()
    assert values(extra, "A") == {"2024-01-01": 10.0, "2024-02-01": 11.0}
    assert extra.category(("A", "B", "C")) == (("Tech", "NA", ""),)


def test_parquet_and_numbers_of_categories(tmp_path):
    frame = {"symbol": ["A", "B"], "date": ["2024-01-01"] * 2, "x": [1.5, None], "code": [10.0, 20.0]}
    pl.DataFrame(frame).write_parquet(tmp_path / "own.parquet")
    extra, found = read(tmp_path / "own.parquet", past=["x"], static=["code"], own=True)
    assert found == () and extra.static == (("10", "20"),)
    assert np.isnan(values(extra, "B")["2024-01-01"])


def test_dates_with_a_zone_keep_their_date_with_a_warning(tmp_path):
    text = "symbol,date,x\nA,2024-01-01T23:00:00-05:00,1\n"
    extra, found = read(write(tmp_path, own_csv=text) / "own.csv", past=["x"], own=True)
    assert [finding.rule for finding in found] == ["time-zone"]
    assert values(extra, "A") == {"2024-01-01": 1.0}


def test_downloads_of_one_symbol_are_joined_as_its_bars_are(tmp_path):
    first, second = bar_file("x", [1, 2]), bar_file("x", [3]).replace("2024", "2025")
    (tmp_path / "A (1).csv").write_text(second)
    extra, found = read(write(tmp_path, A_csv=first), past=["x"])
    assert found == () and extra.symbols == ("A",) and len(values(extra, "A")) == 3


@pytest.mark.parametrize(
    ("cells", "rule", "level", "words", "rest"),
    [
        (["1", "high", "3"], "extra-text", "drop", ("'high'", "row 2"), [1, None, 3]),
        (["1", "inf", "3"], "extra-infinite", "drop", ("'inf'", "row 2"), [1, None, 3]),
        (["1", "-1e300", "3"], "extra-infinite", "drop", ("row 2",), [1, None, 3]),
        (["low", "high", ""], "extra-not-numbers", "error", ("data.extra.static=[x]",), [None] * 3),
        (["1", "", "n/a"], None, None, (), [1, None, None]),
    ],
)
def test_cells_that_are_no_numbers(tmp_path, cells, rule, level, words, rest):
    extra, found = read(write(tmp_path, A_csv=bar_file("x", cells)), past=["x"])
    got = [None if np.isnan(value) else value for value in values(extra, "A").values()]
    assert got == rest
    assert [(f.rule, f.level) for f in found] == ([(rule, level)] if rule else [])
    for finding in found:
        assert finding.file == "A.csv" and finding.symbol == "A" and finding.date.startswith("2024-01-0")
        assert all(word in f"{finding.message} {finding.fix}" for word in words)


@pytest.mark.parametrize(
    ("files", "past", "static", "rule", "words"),
    [
        ({"A_csv": bar_file("x", [1])}, ["y"], [], "extra-absent", ("'y'", "x", "data.extra.past")),
        ({"A_csv": bar_file("s", ["a"])}, [], ["t"], "extra-absent", ("'t'", "data.extra.static")),
        ({"A_csv": bar_file("s", ["a", "b"])}, [], ["s"], "extra-categories", ("'a'", "'b'", "symbol A")),
        ({"A_csv": bar_file("s", ["z" * 300])}, [], ["s"], "extra-categories", ("200",)),
    ],
)
def test_columns_that_can_not_be_used(tmp_path, files, past, static, rule, words):
    _, found = read(write(tmp_path, **files), past=past, static=static)
    (finding,) = found
    assert (finding.rule, finding.level) == (rule, "error")
    assert all(word in f"{finding.message} {finding.fix}" for word in words)


def test_a_part_of_the_bars_is_no_own_column(tmp_path):
    text = bar_file("x", [1]).replace("Close", "Price")
    (finding,) = read(write(tmp_path, A_csv=text), past=["price"])[1]
    assert finding.rule == "extra-is-bar" and "close" in finding.message


def test_a_file_of_numbers_needs_dates(tmp_path):
    (finding,) = read(write(tmp_path, o_csv="symbol,x\nA,1\n") / "o.csv", past=["x"], own=True)[1]
    assert finding.rule == "extra-undated" and "data.columns.date" in finding.fix


def test_two_files_that_disagree_are_both_named(tmp_path):
    head = "symbol,date,x\n"
    folder = write(
        tmp_path, one_csv=f"{head}A,2024-01-01,1\nA,2024-01-02,5\n", two_csv=f"{head}A,2024-01-02,6\n"
    )
    (finding,) = read(folder, past=["x"], own=True)[1]
    assert (finding.level, finding.symbol, finding.date) == ("error", "A", "2024-01-02")
    assert "one.csv" in finding.message and "two.csv" in finding.message
    write(tmp_path, two_csv=f"{head}A,2024-01-02,5\nA,2024-01-03,7\n")
    extra, found = read(folder, past=["x"], own=True)
    assert found == () and list(values(extra, "A").values()) == [1, 5, 7]


def test_of_two_rows_in_one_file_the_last_is_kept(tmp_path):
    text = "symbol,date,x\nA,2024-01-01,1\nA,2024-01-01,2\nB,2024-01-01,3\nB,2024-01-01,3\n"
    extra, (finding,) = read(write(tmp_path, own_csv=text) / "own.csv", past=["x"], own=True)
    assert (finding.rule, finding.level, finding.rows) == ("extra-duplicate", "drop", 1)
    assert values(extra, "A") == {"2024-01-01": 2.0}


def test_dates_like_1_4_1999_follow_the_order_of_the_folder(tmp_path):
    folder = write(
        tmp_path, a_csv="symbol,date,x\nA,25/3/1999,1\n", b_csv="symbol,date,x\nB,1/4/1999,2\nB,2/4/1999,2\n"
    )
    extra, _ = read(folder, past=["x"], own=True)
    assert list(values(extra, "B")) == ["1999-04-01", "1999-04-02"]


def test_decimal_commas_are_read(tmp_path):
    text = "symbol;date;x\nA;2024-01-01;1,25\nA;2024-01-02;2,5\n"
    extra, found = read(write(tmp_path, own_csv=text) / "own.csv", past=["x"], own=True)
    assert found == () and list(values(extra, "A").values()) == [1.25, 2.5]


def test_a_column_of_very_many_values_for_one_symbol_is_one_line(tmp_path):
    lines = "\n".join(f"A,category {i}" for i in range(100_000))
    (finding,) = read(write(tmp_path, s_csv=f"symbol,s\n{lines}\n") / "s.csv", static=["s"], own=True)[1]
    assert "100,000 categories for the symbol A" in finding.message


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"past": ["x", "x"]}, "twice"),
        ({"past": ["x"], "static": ["x"]}, "twice"),
        ({"path": "own.csv"}, "data.extra.past"),
    ],
)
def test_settings_that_contradict_themselves(settings, word):
    with pytest.raises(ConfigError, match=word):
        ExtraSettings(**settings)


def test_names_that_are_taken():
    with pytest.raises(ConfigError, match="rsi_14"):
        ExtraSettings(past=["rsi_14"]).refuse_names({"rsi_14"})
    with pytest.raises(ConfigError, match="mask"):
        ExtraSettings(past=["x_missing"]).refuse_names(set())


def test_a_path_that_is_not_there_is_named_with_its_key(tmp_path):
    with pytest.raises(DataError, match=r"data\.extra\.path"):
        read(tmp_path / "nowhere", past=["x"], own=True)
