"""Names of columns, symbols that a file mixes without naming them, and tickers side by side."""

import numpy as np
import pytest
from bar_files import HEADER, dates, finding, numbers, read, read_cells, rows, rules, write

from stockenh.data.readers.columns import plain


def test_names_lose_case_punctuation_and_list_numbers():
    names = ("5. Adjusted Close", "<VOL>", "PREV. CLOSE ", "4")
    assert [plain(name) for name in names] == ["adjustedclose", "vol", "prevclose", "4"]


FIRMS = f"Firm,{HEADER}"


def firm(name, cells):
    return [[name, *row] for row in cells]


@pytest.mark.parametrize("overlap", [140, 60, 20])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("names", [("Alpha", "Beta"), ("10107", "14593")])
def test_symbols_under_an_unknown_column_are_refused_by_its_name(tmp_path, overlap, mixed, names):
    days = dates(280 - overlap)
    other = [[day, *row[1:]] for day, row in zip(days[-140:], rows(140, seed=3), strict=True)]
    cells = [*firm(names[0], rows(140)), *firm(names[1], other)]
    if mixed:
        cells.sort(key=lambda row: row[1])
    path = write(tmp_path / "all.csv", cells, FIRMS)
    result = read(path)
    words = f"'Firm' ('{names[0]}', '{names[1]}')", "data.columns.symbol='Firm'"
    finding(result, "symbol-column", *words, level="error")
    assert len(result.bars) == 0
    assert read(path, columns={"symbol": "Firm"}).bars.symbols == names


def test_symbols_one_after_the_other_are_refused_at_a_jump_and_warned_about_without(tmp_path):
    cells = rows(140)
    calm = [*firm("Alpha", cells[:70]), *firm("Beta", cells[70:])]
    result = read_cells(tmp_path, calm, FIRMS)
    finding(result, "symbol-column", level="warning")
    assert len(result.bars) == 140
    backwards = [
        [*firm(first, cells[70:]), *firm(second, cells[:70])]
        for first, second in (("Alpha", "Beta"), ("10107", "14593"))
    ]
    for row in calm[70:]:
        row[2:6] = [str(3 * float(price)) for price in row[2:6]]
    for refused in (calm, *backwards):
        finding(read_cells(tmp_path, refused, FIRMS), "symbol-column", level="error")


def test_numbers_and_remarks_in_other_columns_are_no_symbols(tmp_path):
    cells = [[*row, "0" if i % 60 else "0.25", "x" if i == 7 else ""] for i, row in enumerate(rows(140))]
    cells.insert(9, [*cells[8]])
    result = read_cells(tmp_path, cells, f"{HEADER},Dividends,Note")
    assert rules(result) == ["duplicate-date"]
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(140))
    cells = [[*row, "1000000"] for row in rows(140)]
    for row in cells[70:]:
        row[1:5], row[6] = [str(float(price) / 2) for price in row[1:5]], "2000000"
    assert rules(read_cells(tmp_path, cells, f"{HEADER},Shares")) == ["raw-split"]


def test_symbols_without_a_column_of_names_are_refused(tmp_path):
    cells = [row for seed in range(3) for row in rows(30, seed)]
    finding(read_cells(tmp_path, cells), "duplicate-date", level="error")
    other = [[r[0], *(str(3 * float(p)) for p in r[1:5]), r[5]] for r in rows(200, seed=3)[120:]]
    result = read_cells(tmp_path, [*rows(140), *other])
    words = "very different prices", "data.columns.symbol=NAME"
    finding(result, "duplicate-date", *words, level="error", rows=20)  # of 220 rows
    assert len(result.bars) == 0


@pytest.mark.parametrize("again", ["{}", "{}.1"])
def test_columns_of_several_symbols_without_names_are_refused(tmp_path, again):
    header = ",".join([HEADER, *(again.format(name) for name in HEADER.split(",")[1:])])
    cells = [[*row, *other[1:]] for row, other in zip(rows(30), rows(30, seed=1), strict=True)]
    result = read_cells(tmp_path, cells, header)
    finding(result, "columns-repeated", "'Open', 'High', ...", level="error")
    assert len(result.bars) == 0


TICKERS = numbers(30, seed=1), numbers(30, seed=2)
FIELDS, ORDER = ("Adj Close", "Close", "High", "Low", "Open", "Volume"), (3, 3, 1, 2, 0, 4)
DATE_LINE = "Date" + "," * 12


def by_field(first, second, again="{}"):
    """Header lines with the fields above the tickers; `again` is how a repeated field is written."""
    fields = ",".join(f"{field},{again.format(field)}" for field in FIELDS)
    return [f"{first},{fields}", second + ",AA,BB" * 6]


HEADERS = {
    "fields over tickers, unnamed, then Date": [*by_field("", ""), DATE_LINE],
    "fields over tickers, named, then Date": [*by_field("Price", "Ticker"), DATE_LINE],
    "fields over tickers, two lines": by_field("Price", "Ticker"),
    "fields over tickers, the date named above": by_field("Date", ""),
    "repeated names numbered by pandas": by_field("Date", "", again="{}.1"),
    "tickers over fields": ["," + "AA," * 6 + ",".join(["BB"] * 6), "," + ",".join(FIELDS * 2), DATE_LINE],
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("listed", [0, 5])
def test_tickers_side_by_side_are_several_symbols(tmp_path, kind, listed):
    """The second ticker has no bars before day `listed`."""
    cells = []
    for i, day in enumerate(dates(30)):
        one, two = ([repr(float(bars[i, k])) for k in ORDER] for bars in TICKERS)
        two = two if i >= listed else [""] * 6
        pairs = [cell for pair in zip(one, two, strict=True) for cell in pair]
        cells.append([day, *([*one, *two] if kind == "tickers over fields" else pairs)])
    result = read_cells(tmp_path, cells, "\n".join(HEADERS[kind]))
    assert result.bars.symbols == ("AA", "BB")
    np.testing.assert_array_equal(result.bars.ohlcv, np.concatenate([TICKERS[0], TICKERS[1][listed:]]))
    assert result.findings == ()


def test_a_file_whose_first_bar_is_text_is_not_a_wide_one(tmp_path):
    result = read_cells(tmp_path, [["2019-12-31", *["null"] * 5], *rows(30)])
    assert (result.bars.symbols, len(result.bars)) == (("ACME",), 30)
