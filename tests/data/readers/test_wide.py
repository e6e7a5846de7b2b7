"""Tickers side by side: every way in which yfinance has written them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bar_files import dates, numbers, read, write

FIELDS = ("Adj Close", "Close", "High", "Low", "Open", "Volume")
ORDER = (3, 3, 1, 2, 0, 4)
A, B = numbers(30, seed=1), numbers(30, seed=2)


def by_field(corner: tuple[str, str], third: bool, again: str = "{}") -> list[str]:
    """The header lines with the fields above the tickers; `again` is how a repeated field is written."""
    fields = ",".join(f"{field},{again.format(field)}" for field in FIELDS)
    lines = [f"{corner[0]},{fields}", corner[1] + ",AA,BB" * 6]
    return [*lines, "Date" + "," * 12] if third else lines


HEADERS = {
    "fields over tickers, unnamed, then Date": by_field(("", ""), third=True),
    "fields over tickers, named, then Date": by_field(("Price", "Ticker"), third=True),
    "fields over tickers, two lines": by_field(("Price", "Ticker"), third=False),
    "fields over tickers, the date named above": by_field(("Date", ""), third=False),
    "repeated names numbered by pandas": by_field(("Date", ""), third=False, again="{}.1"),
}


def cells() -> list[list[str]]:
    """By field: A and B in turn."""
    pairs = [[repr(float(x[i, k])) for k in ORDER for x in (A, B)] for i in range(30)]
    return [[day, *pair] for day, pair in zip(dates(30), pairs, strict=True)]


@pytest.mark.parametrize("kind", HEADERS)
def test_two_header_lines_give_several_symbols(tmp_path: Path, kind: str) -> None:
    result = read(write(tmp_path / "prices.csv", cells(), "\n".join(HEADERS[kind])))
    assert result.bars.symbols == ("AA", "BB")
    np.testing.assert_array_equal(result.bars.ohlcv, np.concatenate([A, B]))
    assert result.findings == ()


def test_tickers_over_fields_give_several_symbols(tmp_path: Path) -> None:
    order = [f"{field}" for field in FIELDS]
    head = ["," + ",".join(["AA"] * 6 + ["BB"] * 6), "," + ",".join(order * 2), "Date" + "," * 12]
    rows = [[day, *(repr(float(x[i, k])) for x in (A, B) for k in ORDER)] for i, day in enumerate(dates(30))]
    result = read(write(tmp_path / "prices.csv", rows, "\n".join(head)))
    assert result.bars.symbols == ("AA", "BB")
    np.testing.assert_array_equal(result.bars.ohlcv, np.concatenate([A, B]))


def test_a_file_whose_first_bar_is_text_is_no_wide_one(tmp_path: Path) -> None:
    bars = [["2019-12-31", "null", "null", "null", "null", "null"]]
    bars += [[day, *map(repr, bar.tolist())] for day, bar in zip(dates(30), A, strict=True)]
    result = read(write(tmp_path / "ACME.csv", bars))
    assert result.bars.symbols == ("ACME",)
    assert len(result.bars) == 30
