"""Peculiarities of exports: each is read, or refused with its cause and a fix that works."""

import base64
import datetime as dt

import numpy as np
import polars as pl
import pytest
from bar_files import HEADER, cells_of, dates, finding, numbers, read, read_cells, rows, rules, write

from stockenh.data.cache import DiskCache
from stockenh.data.readers.twins import same_bars
from stockenh.data.sources.files import FilesData
from stockenh.errors import DataError

NAMES = ["open", "high", "low", "close", "volume"]


def days_of(result):
    return result.bars.time.astype("datetime64[D]").astype(str).tolist()


def frame(n=30, seed=0, names=NAMES):
    return pl.DataFrame(numbers(n, seed), schema=list(names)).with_columns(pl.Series("date", dates(n)))


@pytest.mark.parametrize("part", ["symbol", "date", *NAMES, "adj_close"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_mapped_column_that_one_file_lacks_leaves_that_file_out(tmp_path, part, kind):
    def save(name, columns):
        if kind == "csv":
            columns.write_csv(tmp_path / f"{name}.csv")
        else:
            columns.write_parquet(tmp_path / f"{name}.parquet")

    good = frame().with_columns(symbol=pl.lit("GOOD"), adj_close="close")
    save("GOOD", good.rename({part: "Mine"}))
    assert read(tmp_path, columns={part: "Mine"}).bars.symbols == ("GOOD",)
    save("LACKS", frame(seed=1))
    result = read(tmp_path, columns={part: "Mine"})
    finding(result, "mapped-column-missing", "'Mine'", level="error", file=f"LACKS.{kind}")
    assert (result.bars.symbols, len(result.bars)) == (("GOOD",), 30)
    settings = FilesData(path=str(tmp_path / f"LACKS.{kind}"), columns={part: "Mine"}, lookback=20)
    with pytest.raises(DataError, match=r"no column is called 'Mine'.*data\.columns"):
        settings.load(DiskCache(tmp_path / "cache"))


ZONES = ["+05:30", "+05:45", "-03:30", "-05:00", "+00:00", "+14:00", "UTC", "Asia/Calcutta", "US/Eastern"]


STAND_INS = {6: "Israel", 9: "Asia/Baku"}  # known zones by length, in place of zones that polars can't write


def write_zoned(path, utc, zone):
    """Writes bars whose dates are these UTC times in a zone, as pandas stores them."""
    written = zone if zone[0].isalpha() and zone != "Mars/Base" else STAND_INS[len(zone)]
    zoned = utc.dt.replace_time_zone("UTC").dt.convert_time_zone(written)
    frame().with_columns(zoned.alias("date")).write_parquet(path)
    schema = pl.read_parquet_metadata(path)["ARROW:schema"].encode()
    other = base64.b64encode(base64.b64decode(schema).replace(written.encode(), zone.encode()))
    path.write_bytes(path.read_bytes().replace(schema, other))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_parquet_keeps_the_exchange_local_date_of_every_zone(tmp_path, capfd, zone, unit):
    wall = pl.Series("date", dates(30)).str.to_datetime(time_unit=unit)
    if zone[0] in "+-":
        minutes = int(zone[1:3]) * 60 + int(zone[4:])
        utc = wall.dt.offset_by(f"{'-' * (zone[0] == '+')}{minutes}m")
    else:
        utc = wall.dt.replace_time_zone(zone).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    write_zoned(tmp_path / "ACME.parquet", utc, zone)
    result = read(tmp_path)
    assert days_of(result) == dates(30)
    finding(result, "time-zone", zone, level="warning")
    assert capfd.readouterr().err == ""


def test_a_zone_that_nobody_knows_is_named(tmp_path, capfd):
    path = tmp_path / "ACME.parquet"
    write_zoned(path, pl.Series(dates(30)).str.to_datetime(), "Mars/Base")
    finding(read(path), "date-unreadable", "unknown time zone 'Mars/Base'", level="error")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("form", ["{} 00:00:00+05:30", "{}T00:00:00+0545", "{} 00:00:00 Asia/Kolkata"])
def test_text_keeps_the_exchange_local_date(tmp_path, form):
    result = read_cells(tmp_path, cells_of(numbers(30), [form.format(day) for day in dates(30)]))
    assert (days_of(result), rules(result)) == (dates(30), ["time-zone"])


@pytest.mark.parametrize(
    "units",
    [
        ",USD,USD,USD,USD,shares", ",USD,USD,USD,USD,USD", ",,,,,", "Date,INR,INR,INR,INR,",
        ",Pesos,Pesos,Pesos,Pesos,Stk",
        "date,float,float,float,float,int", "YYYY-MM-DD,USD,USD,USD,USD,shares", ",$,$,$,$,#",
    ],
)  # fmt: skip
def test_a_line_of_units_below_the_names_costs_itself_only(tmp_path, units):
    result = read_cells(tmp_path, [units.split(","), *rows(30)])
    assert (result.bars.symbols, len(result.bars)) == (("ACME",), 30)
    (found,) = result.findings
    assert (found.level, found.rows) == ("drop", 1)


ABOVE = {
    "an address": "https://www.CryptoDataDownload.com\n",
    "a title and an empty line": "Historical data of ACME\n\n",
    "a title with separators": "ACME, daily, adjusted\n",
    "comments": "# source: exchange\n# open, high and low are adjusted\n#\n",
    "names and values": "Symbol,ACME\nCurrency,USD\nFrom,2020-01-01\n",
    "brackets": "[ACME]\n",
    "Excel": "sep=,\n",
    "Excel, quoted": '"sep=,"\r\n',
    "Excel and a title": "sep=,\nACME\n",
}


@pytest.mark.parametrize("kind", ABOVE)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lines_above_the_names_are_left_out(tmp_path, kind, separator):
    path = write(tmp_path / "ACME.csv", rows(30))
    above = ABOVE[kind].replace("sep=,", f"sep={separator}")
    path.write_bytes((above + path.read_text().replace(",", separator)).encode())
    result = read(path)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))
    assert rules(result) == ([] if above.count("\n") == 1 and "sep=" in above else ["lines-above"])


def test_lines_above_two_lines_of_names_and_above_unknown_names(tmp_path):
    wide = [[*row, *other[1:]] for row, other in zip(rows(30), rows(30, 1), strict=True)]
    fields = "Price" + ",Open,High,Low,Close,Volume" * 2
    tickers = "Ticker" + ",AA" * 5 + ",BB" * 5
    for lines in (f"A title\n{fields}\n{tickers}", f"A title\n{tickers}\n{fields}"):
        assert read_cells(tmp_path, wide, lines).bars.symbols == ("AA", "BB")
    unknown = read_cells(tmp_path, rows(30), "A title\nDay,First,Top,Bottom,Final,Shares")
    finding(unknown, "too-many-cells", "'A title'", "remove the lines above the line of names", level="error")
    names = {"open": "First", "high": "Top", "low": "Bottom", "close": "Final", "volume": "Shares"}
    result = read_cells(tmp_path, rows(30), "A title\nDay,First,Top,Bottom,Final,Shares", columns=names)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))


FLAT = [
    "{field}_{ticker}", "{ticker}_{field}", "{ticker}.{field}", "{field}.{ticker}", "{field} {ticker}",
    "{ticker}-{field}", "{field}|{ticker}", "('{field}', '{ticker}')", "('{ticker}', '{field}')",
]  # fmt: skip
FIELDS = ["Open", "High", "Low", "Close", "Volume"]


@pytest.mark.parametrize("form", FLAT)
@pytest.mark.parametrize("tickers", [("AAPL",), ("AAPL", "BRK.B"), ("RELIANCE.NS", "BAJAJ-AUTO.NS", "^NSEI")])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_name_field_and_ticker_are_symbols(tmp_path, form, tickers, kind):
    parts = [
        frame(seed=i, names=[form.format(field=field, ticker=ticker) for field in FIELDS])
        for i, ticker in enumerate(tickers)
    ]
    table = pl.concat([part.drop("date") for part in parts], how="horizontal")
    table = table.insert_column(0, parts[0]["date"].alias("('Date', '')" if form[0] == "(" else "Date"))
    if kind == "csv":
        table.write_csv(tmp_path / "all.csv")
    else:
        table.with_columns(pl.nth(0).str.to_date()).write_parquet(tmp_path / "all.parquet")
    result = read(tmp_path)
    assert (result.bars.symbols, result.findings) == (tuple(sorted(tickers)), ())
    for i, ticker in enumerate(tickers):
        at = result.bars.rows(result.bars.symbols.index(ticker))
        np.testing.assert_array_equal(result.bars.ohlcv[at], numbers(30, i))


def test_quantmod_files_are_read_and_a_mapping_picks_one(tmp_path):
    for seed, ticker in enumerate(("AAPL", "MSFT")):
        names = [f"{ticker}.{field}" for field in FIELDS]
        cells = [[*row, row[4]] for row in rows(30, seed)]
        write(tmp_path / f"{ticker}.csv", cells, ",".join(["Index", *names, f"{ticker}.Adjusted"]))
    result = read(tmp_path)
    assert (result.bars.symbols, result.findings) == (("AAPL", "MSFT"), ())
    np.testing.assert_allclose(result.bars.ohlcv, np.concatenate([numbers(30, 0), numbers(30, 1)]))
    mapping = {part: f"AAPL.{part.title()}" for part in ("open", "high", "low")}
    result = read(tmp_path, columns=mapping)
    assert result.bars.symbols == ("AAPL",)
    words = "'AAPL.Open' or 'AAPL.High' or 'AAPL.Low'"
    finding(result, "mapped-column-missing", words, level="error", file="MSFT.csv")


@pytest.mark.parametrize("form", ["{} (USD)", "{}_USD", "('{}', 'A', 'x')", "{}[EUR]"])
def test_units_and_three_levels_in_names_are_no_tickers(tmp_path, form):
    frame(names=[form.format(field) for field in FIELDS]).write_parquet(tmp_path / "ACME.parquet")
    assert rules(read(tmp_path)) == ["column-missing"]


def test_words_before_a_field_are_no_tickers(tmp_path):
    result = read_cells(tmp_path, rows(30), "Date," + ",".join(f"bid_{field}" for field in FIELDS))
    assert len(result.bars) == 0 and rules(result) == ["column-missing"]
    wide = [[*row, *other[1:5]] for row, other in zip(rows(30), rows(30, 1), strict=True)]
    header = f"{HEADER}," + ",".join(f"adj_{field}" for field in FIELDS[:4])
    assert read_cells(tmp_path, wide, header).bars.symbols == ("ACME",)


def test_high_prices_are_compared_with_the_bars_before_them(tmp_path):
    for level in (2e4, 2e9):  # 2e6 and 2e11
        cells = cells_of(numbers(30) * [level, level, level, level, 0])
        result = read_cells(tmp_path, cells)
        assert (len(result.bars), finding(result, "price-high", level="warning").rows) == (30, 30)
    for at in (0, 15, 29):
        cells = rows(30)
        cells[at][1:] = ["1e10", "1e10", "1e10", "1e10", "5"]
        for ordered in (cells, cells[::-1]):
            result = read_cells(tmp_path, ordered)
            finding(result, "price-too-large", level="drop", rows=1)
            assert len(result.bars) == 29
    growing = numbers(200) * np.column_stack([np.geomspace(100, 30_000, 200)] * 4 + [np.zeros(200)])
    result = read_cells(tmp_path, cells_of(growing))  # from 1e4 to 3e6
    assert len(result.bars) == 200 and "price-too-large" not in rules(result)
    cells = rows(30)
    cells[7][1:5] = ["2e15"] * 4
    finding(read_cells(tmp_path, cells), "price-too-large", level="drop", rows=1)


@pytest.mark.parametrize(
    ("form", "zone"),
    [
        ("{:%Y%m%d-%H:%M:%S}", "UTC"), ("{:%Y%m%d %H:%M:%S} US/Eastern", "US/Eastern"),
        ("{:%Y%m%d  %H:%M:%S}", ""), ("{:%Y%m%d %H:%M:%S} America/New_York", "America/New_York"),
        ("{:%Y%m%d %H:%M:%S} EST", "EST"), ("{:%Y%m%d %H:%M:%S} MET", "MET"), ("{:%Y%m%d-%H:%M}", "UTC"),
        ("{:%Y%m%d %H:%M:%S} Japan", "Japan"), ("{:%Y%m%d %H:%M:%S} Hongkong", "Hongkong"),
        ("{:%Y%m%d %H:%M:%S} GMT+2", "GMT+2"), ("{:%Y-%m-%dT%H:%M:%S}-05:00[America/New_York]", "-05:00"),
        ("{:%Y-%m-%d-%H:%M:%S}", "UTC"), ("{:%Y-%m-%d %H:%M:%S} (EST)", "EST"),
        ("{:%Y%m%d %H:%M} Etc/GMT-1", "Etc/GMT-1"),
    ],
)  # fmt: skip
def test_times_with_the_name_of_a_zone_stay_as_written(tmp_path, form, zone):
    stamps = [dt.datetime.fromisoformat(f"{day} {hour}:30") for day in dates(10) for hour in (10, 12, 14)]
    result = read_cells(tmp_path, cells_of(numbers(30), [form.format(stamp) for stamp in stamps]))
    assert result.bars.time.astype("datetime64[s]").astype(object).tolist() == stamps
    assert [found.message.partition("(")[2].partition(")")[0] for found in result.findings] == [zone][
        : bool(zone)
    ]
    daily = [form.format(dt.datetime.fromisoformat(day)) for day in dates(30)]
    assert days_of(read_cells(tmp_path, cells_of(numbers(30), daily))) == dates(30)


@pytest.mark.parametrize(
    "name", ["t", "open_time", "window_start", "timestamp", "unix", "time", "Open time", "date"]
)
@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("kind", ["int", "float", "text", "float text", "exponent"])
def test_epochs_are_dates_under_their_usual_names(tmp_path, name, unit, kind):
    seconds = np.array(dates(30), "datetime64[s]").astype(np.int64)
    count = seconds * unit
    texts = {"text": "{}", "float text": "{}.0", "exponent": "{!r}"}
    column = pl.Series(name, count)
    if kind == "float":
        column = column.cast(pl.Float64)
    elif kind == "exponent":
        column = pl.Series(name, [f"{value:.9e}" for value in count])
    elif kind != "int":
        column = pl.Series(name, [texts[kind].format(value) for value in count])
    frame().drop("date").insert_column(0, column).write_parquet(tmp_path / "ACME.parquet")
    result = read(tmp_path)
    assert days_of(result) == dates(30)
    finding(result, "time-zone", "1970", level="warning")


def test_a_spreadsheet_that_rounded_its_epochs_is_refused(tmp_path):
    hours = np.array(dates(30), "datetime64[h]").astype(np.int64) + np.arange(30)
    written = [f"{hour * 3_600_000:.5e}" for hour in hours]
    finding(read_cells(tmp_path, cells_of(numbers(30), written)), "date-unreadable", level="error")


def test_equal_bars_under_several_names_are_one_warning(tmp_path):
    for name in ("AAPL", "AAPL (1)", "aapl"):
        write(tmp_path / f"{name}.csv", rows(60))
    write(tmp_path / "OTHER.csv", rows(60, seed=1))
    write(tmp_path / "AAPL (2).csv", rows(60)[:40])  # an older download
    result = read(tmp_path)
    words = "AAPL, AAPL (1), AAPL (2), aapl have the same bars"
    finding(result, "same-bars", words, level="warning", rows=60)
    assert len(set(result.bars.symbols)) == 5
    cells = [[name, *row] for name, seed in (("A", 0), ("B", 0), ("C", 1)) for row in rows(30, seed)]
    result = read(write(tmp_path / "OTHER.csv", cells, f"Symbol,{HEADER}"))
    finding(result, "same-bars", "A, B have", level="warning")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("<DATE>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<TICKVOL>", "TICKVOL"),
        ("time,open,high,low,close,real,tick_volume", "tick_volume"),
        ("Date,Open,High,Low,Close,x,Volume BTC", "Volume BTC"),
    ],
)  # fmt: skip
def test_a_volume_of_0_throughout_is_a_warning_that_names_the_other_volume(tmp_path, header, name):
    cells = [[*row[:5], "0", row[5]] for row in rows(30)]
    result = read_cells(tmp_path, cells, header)
    found = finding(result, "no-volume", "data.columns.volume=", name, level="warning")
    mapped = found.fix.partition("data.columns.volume=")[2].partition(";")[0].strip("'")
    result = read_cells(tmp_path, cells, header, columns={"volume": mapped})
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))
    assert "no-volume" not in rules(result)


def test_a_long_file_names_its_symbols_without_volume(tmp_path):
    cells = [["A", *row] for row in rows(30)] + [["INDEX", *row[:5], "0"] for row in rows(30, 1)]
    finding(
        read_cells(tmp_path, cells, f"Symbol,{HEADER}"), "no-volume", "volume of INDEX is 0", level="warning"
    )
    finding(read_cells(tmp_path, [[*row[:5], "0"] for row in rows(30)]), "no-volume", level="warning")


def test_trade_for_trade_series_stand_in_on_days_without_eq(tmp_path):
    series = ["EQ"] * 10 + ["BE"] * 10 + ["BZ"] * 5 + ["EQ"] * 5
    cells = [["ACME", s, *row] for s, row in zip(series, rows(30), strict=True)]
    others = [["ACME", s, *row] for s in ("BE", "GS", "N1", "SM") for row in rows(5, seed=1)]
    result = read_cells(tmp_path, [*others, *cells], f"SYMBOL,SERIES,{HEADER}")
    finding(result, "other-series", level="drop", rows=20)
    assert days_of(result) == dates(30)
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(30))
    only = [["ACME", "SM", *row] for row in rows(30)]
    assert len(read_cells(tmp_path, only, f"SYMBOL,SERIES,{HEADER}").bars) == 30


@pytest.mark.parametrize(
    ("form", "symbol"),
    [
        ("NIFTY 50-01-01-{}-to-31-12-{}", "NIFTY 50"), ("NIFTY BANK-01-01-{}-TO-31-12-{} (1)", "NIFTY BANK"),
        ("AAPL_{}", "AAPL"), ("BTCUSDT-1d-{}", "BTCUSDT-1d"), ("^NSEI {}", "^NSEI"),
        ("AAPL_{}0101_{}1231", "AAPL"), ("AAPL_{}-01-01_{}-12-31", "AAPL"),
        ("EURUSD_Daily_{}01010000_{}12310000", "EURUSD"), ("NIFTY 50_0101{}to3112{}", "NIFTY 50"),
    ],
)  # fmt: skip
def test_yearly_files_are_one_history(tmp_path, form, symbol):
    days = dates(120, "2021-10-01")
    for year in ("2021", "2022"):
        cells = [row for row in cells_of(numbers(120), days) if row[0].startswith(year)]
        write(tmp_path / f"{form.format(year, year)}.csv", cells[::-1])  # the newest first
    result = read(tmp_path)
    assert (result.bars.symbols, days_of(result), result.findings) == ((symbol,), days, ())
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(120))


def test_downloads_of_several_years_under_one_name_are_one_history(tmp_path):
    write(tmp_path / "Nifty 50 Historical Data.csv", rows(120)[60:])
    write(tmp_path / "Nifty 50 Historical Data (1).csv", rows(120)[:60])
    result = read(tmp_path)
    assert (set(result.bars.symbols), result.findings) == ({"Nifty 50 Historical Data"}, ())
    np.testing.assert_array_equal(result.bars.ohlcv, numbers(120))


def test_a_year_in_a_name_that_the_dates_contradict_stays(tmp_path):
    write(tmp_path / "FUND_2050.csv", rows(30))
    assert read(tmp_path).bars.symbols == ("FUND_2050",)


def test_the_index_closing_file_of_the_indian_exchange(tmp_path):
    header = (
        "Index Name,Index Date,Open Index Value,High Index Value,Low Index Value,Closing Index Value,Volume"
    )
    for row in rows(30):
        day = "-".join(row[0].split("-")[::-1])
        cells = [
            ["Nifty 50", day, *row[1:]],
            ["Nifty Bank", day, *row[1:]],
            ["Nifty GS", day, "-", "-", "-", "1", "-"],
        ]
        write(tmp_path / f"ind_close_all_{day.replace('-', '')}.csv", cells, header)
    result = read(tmp_path)
    assert set(result.bars.symbols) == {"Nifty 50", "Nifty Bank"}
    assert days_of(result) == dates(30) * 2


def test_a_repeated_header_and_an_empty_date_are_named(tmp_path):
    for cells, word in ((HEADER.split(","), "'Date'"), (["", *rows(1)[0][1:]], "''")):
        result = read_cells(tmp_path, [*rows(30)[:15], cells, *rows(30)[15:]])
        finding(result, "date-unreadable", f"the date can't be read: {word}", level="drop", rows=1)
        assert len(result.bars) == 30


def test_equal_bars_are_found_among_very_many():
    time = np.arange(2_500).astype("datetime64[D]").astype("datetime64[s]")
    bars = [np.random.default_rng(seed % 49).random((2_500, 5)) for seed in range(50)]
    (found,) = same_bars([(f"S{seed:02}", time, values) for seed, values in enumerate(bars)])
    assert "S00, S49 have the same bars" in found.message
