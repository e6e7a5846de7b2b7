"""Column names of public exports."""

from __future__ import annotations

import pytest

from stockenh.data.readers.columns import match_columns, plain

LAYOUTS = {
    "Yahoo": ("Date,Open,High,Low,Close,Adj Close,Volume", "0,1,2,3,4,6,5"),
    "Yahoo, adjusted close last": ("Date,Open,High,Low,Close,Volume,Adj Close", "0,1,2,3,4,5,6"),
    "Stooq bulk": (
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
        "2,4,5,6,7,8,-",
    ),
    "Alpha Vantage": (
        "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient",
        "0,1,2,3,4,6,5",
    ),
    "Alpha Vantage, numbered": (
        "date,1. open,2. high,3. low,4. close,5. adjusted close,6. volume",
        "0,1,2,3,4,6,5",
    ),
    "Kaggle": ("Date,Open,High,Low,Close,Volume,OpenInt", "0,1,2,3,4,5,-"),
    "NIFTY50": (
        "Date,Symbol,Series,Prev Close,Open,High,Low,Last,Close,VWAP,Volume,Turnover,Trades",
        "0,4,5,6,8,10,-",
    ),
    "NSE": (
        "Date ,series ,OPEN ,HIGH ,LOW ,PREV. CLOSE ,ltp ,close ,vwap ,52W H ,52W L ,VOLUME ,VALUE ",
        "0,2,3,4,7,11,-",
    ),
    "NSE bhavcopy": (
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP",
        "10,2,3,4,5,8,-",
    ),
    "NSE archive": (
        "Symbol,Series,Date,Prev Close,Open Price,High Price,Low Price,Last Price,Close Price,"
        "Average Price,Total Traded Quantity,Turnover",
        "2,4,5,6,8,10,-",
    ),
    "NSE UDiFF": (
        "TradDt,BizDt,TckrSymb,SctySrs,OpnPric,HghPric,LwPric,ClsPric,LastPric,PrvsClsgPric,TtlTradgVol",
        "0,4,5,6,7,10,-",
    ),
    "pandas index": (",open,high,low,close,volume", "0,1,2,3,4,5,-"),
    "Investing.com": ("Date,Price,Open,High,Low,Vol.,Change %", "0,2,3,4,1,5,-"),
}
FIELDS = ("date", "open", "high", "low", "close", "volume", "adj_close")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_layouts_are_matched(layout: str) -> None:
    header, positions = LAYOUTS[layout]
    columns = match_columns(header.split(","), {})
    expected = {f: int(p) for f, p in zip(FIELDS, positions.split(","), strict=True) if p != "-"}
    assert {field: columns.index[field] for field in FIELDS if field in columns.index} == expected
    assert not columns.missing
    assert not columns.close_among


def test_names_lose_case_punctuation_and_list_numbers() -> None:
    assert [plain(n) for n in ("5. Adjusted Close", "<VOL>", "PREV. CLOSE ", "4")] == [
        "adjustedclose",
        "vol",
        "prevclose",
        "4",
    ]


def test_previous_close_is_never_the_close() -> None:
    columns = match_columns(["date", "open", "high", "low", "prev_close", "PrvsClsgPric", "volume"], {})
    assert columns.missing == ("close",)


def test_two_possible_closes_are_both_named_and_the_first_is_taken() -> None:
    columns = match_columns(["date", "open", "high", "low", "ltp", "last", "volume"], {})
    assert columns.close_among == ("last", "ltp")
    assert columns.index["close"] == 5


def test_an_exact_close_beats_close_like_names() -> None:
    columns = match_columns(["date", "open", "high", "low", "ltp", "prev_close", "close"], {})
    assert columns.index["close"] == 6
    assert not columns.close_among


def test_an_explicit_mapping_wins_over_the_exact_name() -> None:
    columns = match_columns(["date", "open", "high", "low", "close", "VWAP"], {"close": "vwap"})
    assert columns.index["close"] == 5


def test_a_mapped_name_that_the_file_lacks_is_reported() -> None:
    columns = match_columns(["date", "open", "high", "low", "close"], {"volume": "shares"})
    assert columns.absent == ("shares",)
    assert "volume" not in columns.index
