"""Every export layout gives back the numbers that were written, for random valid bars."""

import csv
import datetime as dt
import io
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bar_files import HEADER, cells_of, dates, finding, numbers, read, read_cells, rows, rules, write
from hypothesis import given, settings
from hypothesis import strategies as st


def table(header, cells, separator=",", newline="\n"):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=newline)
    writer.writerows([header.split(","), *cells])
    return text.getvalue()


def simple(header, order, **style):
    """Columns by letter: d date, o h l c v, a adjusted close (= close), s symbol, e series, x a filler."""

    def text(days, values):
        known = [[*bar, bar[4], "ACME", "EQ", "7.5"] for bar in cells_of(values, days)]
        places = ["dohlcvasex".index(letter) for letter in order]
        return table(header, [[cells[place] for place in places] for cells in known], **style)

    return text


def nse(days, values):
    header = "Date ,series ,OPEN ,HIGH ,LOW ,PREV. CLOSE ,ltp ,close ,vwap ,VOLUME ,VALUE "
    written = [np.datetime64(day).astype(object).strftime("%d-%b-%Y") for day in days]
    bars = cells_of(values, written, "{:,.2f}", "{:,.0f}")
    cells = [[d, "EQ", *ohl, "1.00", "2.00", c, "3.00", v, "1,23,456.78"] for d, *ohl, c, v in bars]
    return table(header, cells)


def stooq_bulk(days, values):
    header = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>"
    bars = cells_of(values, [day.replace("-", "") for day in days])
    return table(header, [["ACME.US", "D", bar[0], "000000", *bar[1:], "0"] for bar in bars])


def yfinance(days, values):
    cells = [["Ticker", *["ACME"] * 5], ["Date", "", "", "", "", ""]]
    cells += [[day, c, h, low, o, v] for day, o, h, low, c, v in cells_of(values, days)]
    return table("Price,Close,High,Low,Open,Volume", cells)


def american(days, values):
    parts = [day.split("-") for day in days]
    return simple(HEADER, "dohlcv")([f"{int(m)}/{int(d)}/{y}" for y, m, d in parts], values)


def alpha_vantage(days, values):
    header = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"
    return simple(header, "dohlcavxx")(days[::-1], values[::-1])


NSE_ARCHIVE = (
    "Symbol,Series,Date,Prev Close,Open Price,High Price,Low Price,Last Price,Close Price,Average Price,"
    "Total Traded Quantity,Turnover"
)
LAYOUTS = {
    "Yahoo": simple("Date,Open,High,Low,Close,Adj Close,Volume", "dohlcav"),
    "Yahoo, adjusted close last": simple("Date,Open,High,Low,Close,Volume,Adj Close", "dohlcva"),
    "yfinance, three header rows": yfinance,
    "Stooq web, acme_us_d.csv": simple(HEADER, "dohlcv", newline="\r\n"),
    "Stooq bulk, acme.us.txt": stooq_bulk,
    "Alpha Vantage": alpha_vantage,
    "Kaggle, acme.us.txt": simple("Date,Open,High,Low,Close,Volume,OpenInt", "dohlcvx"),
    "NSE": nse,
    "NSE bhavcopy": simple(
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP", "seohlcxxvxd"
    ),
    "NSE archive": simple(NSE_ARCHIVE, "sedxohlxcxvx"),
    "NSE UDiFF": simple(
        "TradDt,BizDt,TckrSymb,SctySrs,OpnPric,HghPric,LwPric,ClsPric,LastPric,PrvsClsgPric,TtlTradgVol",
        "ddseohlcxxv",
    ),
    "NIFTY50": simple(
        "Date,Symbol,Series,Prev Close,Open,High,Low,Last,Close,VWAP,Volume,Turnover,Trades", "dsexohlxcxvxx"
    ),
    "pandas index": simple(",open,high,low,close,volume", "dohlcv"),
    "Investing.com": simple("Date,Price,Open,High,Low,Vol.,Change %", "dcohlvx"),
    "semicolons": simple(HEADER, "dohlcv", separator=";"),
    "tabs": simple(HEADER, "dohlcv", separator="\t"),
    "Alpha Vantage, numbered": simple(
        "date,1. open,2. high,3. low,4. close,5. adjusted close,6. volume", "dohlcav"
    ),
    "American dates": american,
    "several close-like": simple("date,prev_close,ltp,open,high,low,close,volume", "dxxohlcv"),
}


@st.composite
def valid_bars(draw):
    """(n, 5) bars whose prices stay within 20% of each other and have two decimals."""
    n = draw(st.integers(20, 40))
    level = draw(st.sampled_from([5.0, 90.0, 950.0, 20_000.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    prices = np.sort(level * rng.uniform(0.95, 1.05, (n, 4)), axis=1).round(2)
    low, inner, other, high = prices.T
    volume = rng.integers(0, 10**9, n).astype(float)
    return np.column_stack([inner, high, low, other, volume])


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=10)
@given(values=valid_bars())
def test_reading_gives_back_what_was_written(layout, values):
    days = dates(len(values), "2023-12-20")
    with tempfile.TemporaryDirectory() as folder:
        name = layout.partition(", ")[2]
        path = Path(folder) / (name if "." in name else "ACME.csv")
        path.write_bytes(LAYOUTS[layout](days, values).encode())
        result = read(path)
    assert [f for f in result.findings if f.level != "warning"] == []
    assert result.bars.symbols == ("ACME",)
    assert result.bars.time.astype("datetime64[D]").astype(str).tolist() == days
    np.testing.assert_array_equal(result.bars.ohlcv, values)


def test_a_typed_parquet_file(tmp_path):
    values = numbers(30)
    frame = pl.DataFrame(values, schema=["Open", "High", "Low", "Close", "Volume"])
    days = pl.Series("Date", dates(30)).str.to_datetime().dt.replace_time_zone("America/New_York")
    frame.with_columns(days, pl.col("Volume").cast(pl.Int64)).write_parquet(tmp_path / "ON.parquet")
    result = read(tmp_path)
    assert (result.bars.symbols, str(result.bars.time[0])) == (("ON",), "2020-01-01T00:00:00")
    np.testing.assert_array_equal(result.bars.ohlcv, values)
    finding(result, "time-zone", "America/New_York")


@pytest.mark.parametrize(
    "cell", [[1.0], {"a": 1}, b"1", True, dt.date(2020, 1, 1), dt.time(1), dt.timedelta(1)]
)
@pytest.mark.parametrize("column", ["open", "date"])
def test_parquet_columns_of_a_strange_type_are_findings(tmp_path, column, cell):
    names = ["open", "high", "low", "close", "volume"]
    frame = pl.DataFrame(numbers(30), schema=names).with_columns(pl.Series("date", dates(30)))
    frame.with_columns(pl.Series(column, [cell] * 30)).write_parquet(tmp_path / "ACME.parquet")
    result = read(tmp_path)
    assert len(result.bars) == 0
    assert "error" in {found.level for found in result.findings}


def test_parquet_text_as_bytes_is_text(tmp_path):
    frame = pl.DataFrame(numbers(30), schema=["open", "high", "low", "close", "volume"])
    days = pl.Series("date", [day.encode() for day in dates(30)])
    frame.with_columns(pl.Series("symbol", [b"AAA"] * 30), days).write_parquet(tmp_path / "x.parquet")
    result = read(tmp_path)
    assert (result.bars.symbols, result.findings) == (("AAA",), ())


def test_a_column_names_the_symbols_and_an_empty_one_leaves_the_file_name(tmp_path):
    cells = [[*row, ""] for row in rows(30)]
    assert read_cells(tmp_path, cells, f"{HEADER},Name").bars.symbols == ("ACME",)
    for row in cells[:20]:
        row[6] = "OTHER"
    result = read_cells(tmp_path, cells, f"{HEADER},Name")
    assert finding(result, "symbol-missing").rows == 10
    assert result.bars.symbols == ("OTHER",)
    names = ["NAN", "TRUE", "ON", "Y", "BRK.B", "M&M", "null", "1E5"]
    cells = [[*row, name] for i, name in enumerate(names) for row in rows(30, seed=i)]
    path = write(tmp_path / "all_stocks.csv", cells, "date,open,high,low,close,volume,Name")
    result = read(path)
    assert result.bars.symbols == tuple(sorted(names))
    position = result.bars.symbols.index("BRK.B")
    np.testing.assert_array_equal(result.bars.ohlcv[result.bars.rows(position)], numbers(30, seed=4))
    assert (result.files, result.files_used) == (1, 1)


def test_only_the_equity_series_of_an_indian_export_is_kept(tmp_path):
    cells = [["ACME", "EQ", *row] for row in rows(30)] + [["ACME", "BL", *row] for row in rows(10)]
    result = read_cells(tmp_path, cells, f"SYMBOL,SERIES,{HEADER}")
    finding(result, "other-series", level="drop", rows=10)
    assert len(result.bars) == 30


def test_one_file_per_day_is_joined_by_symbol(tmp_path):
    for one, two in zip(rows(30, seed=1), rows(30, seed=2), strict=True):
        cells = [["AA", "EQ", *one], ["BB", "EQ", *two]]
        write(tmp_path / f"bhav{one[0]}.csv", cells, f"SYMBOL,SERIES,{HEADER}")
    result = read(tmp_path)
    assert result.bars.symbols == ("AA", "BB")
    np.testing.assert_array_equal(result.bars.ohlcv, np.concatenate([numbers(30, 1), numbers(30, 2)]))
    assert (result.files, result.files_used) == (30, 30)


def test_intraday_bars_keep_their_times(tmp_path):
    stamps = [f"{day} {hour}:30:00" for day in dates(10) for hour in (10, 12, 14)]
    daily = [f"{day} 16:00:00" for day in dates(30)]
    for days, second in ((stamps, "2020-01-01T12:30:00"), (daily, "2020-01-02T00:00:00")):
        assert str(read_cells(tmp_path, cells_of(numbers(30), days)).bars.time[1]) == second


def test_bytes_that_are_no_text_warn(tmp_path):
    path = write(tmp_path / "ACME.csv", [[*row, "x"] for row in rows(30)], HEADER + ",note")
    path.write_bytes(path.read_bytes().replace(b",x", b",\xff\xe9"))
    result = read(tmp_path)
    assert (rules(result), len(result.bars)) == (["bad-bytes"], 30)
