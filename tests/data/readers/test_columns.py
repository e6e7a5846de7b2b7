"""Column names of public exports."""

from __future__ import annotations

import pytest

from stockenh.data.readers.columns import match_columns, plain


def test_names_lose_case_punctuation_and_list_numbers() -> None:
    names = ("5. Adjusted Close", "<VOL>", "PREV. CLOSE ", "4")
    assert [plain(name) for name in names] == ["adjustedclose", "vol", "prevclose", "4"]


@pytest.mark.parametrize(
    ("names", "close", "among"),
    [
        ("prev_close,PrvsClsgPric", None, ()),
        ("ltp,last", 5, ("last", "ltp")),
        ("ltp,prev_close,close", 6, ()),
    ],
)
def test_the_close_is_never_the_previous_one_and_an_exact_name_wins(
    names: str, close: int | None, among: tuple[str, ...]
) -> None:
    columns = match_columns(["date", "open", "high", "low", *names.split(",")], {})
    assert (columns.index.get("close"), columns.close_among) == (close, among)
    assert columns.missing == (() if close else ("close",))


def test_an_explicit_mapping_wins_over_the_exact_name() -> None:
    columns = match_columns(["date", "open", "high", "low", "close", "VWAP"], {"close": "vwap"})
    assert columns.index["close"] == 5


def test_a_mapped_name_that_the_file_lacks_is_reported() -> None:
    columns = match_columns(["date", "open", "high", "low", "close"], {"volume": "shares"})
    assert columns.absent == ("shares",)
    assert "volume" not in columns.index
