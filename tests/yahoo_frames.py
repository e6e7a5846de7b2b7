"""Frames as yfinance 1.7 returns them, and a client that answers with them."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

FIELDS = ["Adj Close", "Close", "High", "Low", "Open", "Volume"]
UNKNOWN = "['{}']: possibly delisted; no timezone found"
LIMITED = "['{}']: YFRateLimitError('Too Many Requests. Rate limited. Try after a while.')"
OFFLINE = (
    "['{}']: DNSError('Failed to perform, curl: (6) Could not resolve host: query2.finance.yahoo.com. See "
    "https://curl.se/libcurl/c/libcurl-errors.html first for more details.')"
)


def days(first: str, count: int) -> list[str]:
    """Business days."""
    return [str(day) for day in np.busday_offset(first, np.arange(count), roll="forward")]


def prices(dates: list[str], seed: int = 0, adjusted: float = 0.5) -> pd.DataFrame:
    """One ticker's own part: a random walk, half of whose close is its adjusted close."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, len(dates))))
    values = [adjusted * close, close, 1.01 * close, 0.99 * close, 0.999 * close]
    frame = pd.DataFrame(dict(zip(FIELDS, values, strict=False)), index=pd.DatetimeIndex(dates, name="Date"))
    return frame.assign(Volume=rng.integers(1_000, 9_000, len(dates)))


def answer(
    zone: str | None = "America/New_York", by: str = "column", **tickers: pd.DataFrame
) -> pd.DataFrame:
    """The frame of `yfinance.download`: (Price, Ticker) columns, or (Ticker, Price) with by="ticker".

    Dates that a ticker lacks are rows of NaN.
    """
    index = next(iter(tickers.values())).index
    for frame in tickers.values():
        index = index.union(frame.index)
    parts = {name: frame.reindex(index) for name, frame in tickers.items()}
    whole = pd.concat(parts.values(), axis=1, keys=parts.keys(), names=["Ticker", "Price"])
    if by == "column":
        whole.columns = whole.columns.swaplevel(0, 1)
        whole = whole.sort_index(level=0, axis=1)
    return whole if zone is None else whole.tz_localize(zone)


class Client:
    """A substitute for yfinance: answers by ticker, each a frame or the text that it logs instead."""

    def __init__(self, answers: dict[str, pd.DataFrame | str]) -> None:
        self.answers = answers
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def download(self, ticker: str, **options: Any) -> pd.DataFrame:
        self.requests.append((ticker, options))
        found = self.answers.get(ticker, UNKNOWN)
        if isinstance(found, str):
            logging.getLogger("yfinance").error("\n1 Failed download:")
            logging.getLogger("yfinance").error(found.format(ticker))
            return answer(None, **{ticker: prices([])})
        return answer(**{ticker: found})

    @property
    def tickers(self) -> list[str]:
        """The requested tickers, in turn."""
        return [ticker for ticker, _ in self.requests]


Answering = Callable[..., Client]


@pytest.fixture
def yahoo(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Puts a client in the place of yfinance: `yahoo(AAPL=frame)`."""

    def put(answers: dict[str, pd.DataFrame | str] | None = None, **more: pd.DataFrame | str) -> Client:
        client = Client({**(answers or {}), **more})
        module = types.ModuleType("yfinance")
        monkeypatch.setattr(module, "download", client.download, raising=False)
        monkeypatch.setitem(sys.modules, "yfinance", module)
        return client

    return put
