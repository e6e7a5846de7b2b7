import inspect
import sys
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from yahoo_frames import LIMITED, OFFLINE, UNKNOWN, answer, days, prices, yahoo

from stockenh.data.sources.yahoo_download import (
    NoBarsError,
    UnreachableError,
    bars_of,
    client,
    fetch,
    yahoo_name,
)
from stockenh.errors import ConfigError, StockenhError

__all__ = ["yahoo"]  # a fixture

LATER = datetime(2030, 1, 1, tzinfo=UTC)
WEEK = days("2024-03-04", 5)


def days_of(bars):
    return bars["date"].cast(pl.String).to_list()


def expected(frame):
    values = frame[["Open", "High", "Low", "Close", "Adj Close", "Volume"]].astype(float).to_numpy().tolist()
    return [(day.date(), *row) for day, row in zip(frame.index, values, strict=True)]


@pytest.mark.parametrize("by", ["column", "ticker"])
@pytest.mark.parametrize("zone", ["America/New_York", "UTC", None])
@pytest.mark.parametrize("ticker", ["AAPL", "OPEN", "LOW"])
def test_columns_of_two_levels_are_read_in_either_order(by, zone, ticker):
    """Tickers may be called like a field."""
    own, other = prices(WEEK, seed=1), prices(WEEK, seed=2)
    bars = bars_of(answer(zone, by, **{ticker: own, "MSFT": other}), ticker, LATER)
    assert bars.columns == ["date", "open", "high", "low", "close", "adj_close", "volume"]
    assert bars.dtypes == [pl.Date, *[pl.Float64] * 6]
    assert bars.rows() == expected(own)


def test_what_a_frame_lacks_is_left_out_and_half_a_bar_is_kept():
    assert bars_of(prices(WEEK).tz_localize("Europe/London"), "VOD.L", LATER).rows() == expected(prices(WEEK))
    assert bars_of(answer(AAPL=prices(WEEK)), "MSFT", LATER).is_empty()
    with pytest.raises(StockenhError, match="unknown columns: open, close"):
        bars_of(pd.DataFrame({"open": [1.0], "close": [2.0]}, pd.DatetimeIndex(WEEK[:1])), "X", LATER)
    young = prices(WEEK[3:])
    young.loc[young.index[1], "High"] = np.nan
    bars = bars_of(answer(AAPL=prices(WEEK), NEW=young), "NEW", LATER)
    assert days_of(bars) == WEEK[3:]
    assert bars["high"].to_list()[1] is None and bars["close"].null_count() == 0
    bars = bars_of(answer(AAPL=prices(WEEK).drop(columns="Adj Close")), "AAPL", LATER)
    assert bars.columns == ["date", "open", "high", "low", "close", "volume"] and bars.height == 5


@pytest.mark.parametrize(
    ("zone", "now", "left"),
    [
        # Friday in New York begins at 05:00 UTC, and Saturday ends it
        ("America/New_York", "08T04:59", 3),
        ("America/New_York", "08T21:30", 4),
        ("America/New_York", "09T04:59", 4),
        ("America/New_York", "09T05:00", 5),
        # in Tokyo it is nine hours later than in Greenwich
        ("Asia/Tokyo", "08T14:59", 4),
        ("Asia/Tokyo", "08T15:00", 5),
        (None, "08T23:59", 4),
    ],
)
def test_the_bar_of_a_day_that_is_not_over_at_the_exchange_is_left_out(zone, now, left):
    bars = bars_of(answer(zone, X=prices(WEEK)), "X", datetime.fromisoformat(f"2024-03-{now}+00:00"))
    assert days_of(bars) == WEEK[:left]


def test_share_classes_are_written_as_there_and_every_option_of_the_client_is_set(yahoo):
    assert [yahoo_name(symbol) for symbol in ("BRK.B", "BF.A")] == ["BRK-B", "BF-A"]
    for symbol in ("AAPL", "VOD.L", "7203.T", "^GSPC", "SAP.DE"):
        assert yahoo_name(symbol) == symbol
    real = client()
    fake = yahoo({"BRK-B": prices(WEEK)})
    assert fetch("BRK.B", date(2024, 3, 4), date(2024, 3, 8)).height == 5
    fetch("BRK.B", None, None)
    fetch("BRK.B", None, date(2024, 3, 8))
    shared = {
        "interval": "1d", "auto_adjust": False, "actions": False, "ignore_tz": False, "threads": False,
        "progress": False, "timeout": 30.0,
    }  # fmt: skip
    spans = [
        {"start": "2024-03-04", "end": "2024-03-09"},  # their end is the first day that is left out
        {"period": "max"},
        {"start": "1900-01-01", "end": "2024-03-09"},
    ]
    assert fake.requests == [("BRK-B", {**span, **shared}) for span in spans]
    known = inspect.signature(real.download).parameters
    assert {option for _, options in fake.requests for option in options} <= set(known)


def test_the_real_client_s_own_frame_is_read(monkeypatch):
    class Ticker:
        """In the place of the one request: what the library makes of its answer is its own."""

        _price_history = None

        def __init__(self, name):
            assert name == "BRK-B"

        def history(self, **options):
            assert (options["start"], options["end"], options["keepna"]) == ("2024-03-04", None, False)
            return prices(WEEK).tz_localize("America/New_York")

    client()
    monkeypatch.setattr(sys.modules["yfinance.multi"], "Ticker", Ticker)
    assert fetch("BRK.B", date(2024, 3, 4), None).rows() == expected(prices(WEEK))


@pytest.mark.parametrize(
    ("logged", "error", "message"),
    [
        (UNKNOWN, NoBarsError, "possibly delisted; no timezone found"),
        (LIMITED, UnreachableError, r"rate limit"),
        (OFFLINE, UnreachableError, r"reached \(curl: \(6\) Could not resolve host: query2.*com\)"),
        ("['{}']: ReadTimeout('timed out')", UnreachableError, r"can't be reached \(timed out\)"),
        ("['{}']: YFDataException('*** YAHOO! FINANCE IS CURRENTLY DOWN! ***')", UnreachableError, "DOWN"),
    ],
)
def test_what_the_client_logs_becomes_one_reason(yahoo, capfd, logged, error, message):
    yahoo(AAPL=logged)
    with pytest.raises(error, match=message):
        fetch("AAPL", None, None)
    assert capfd.readouterr() == ("", "")


def test_without_the_extra_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "yfinance", None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'stockenh\[yahoo\]'"):
        fetch("AAPL", None, None)
