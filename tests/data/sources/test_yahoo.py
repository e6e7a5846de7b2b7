import fcntl
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from bar_files import finding
from waiting import wait_for
from yahoo_frames import LIMITED, OFFLINE, days, prices, yahoo

from stockenh.data.cache import DiskCache
from stockenh.data.sources import yahoo_download as downloads
from stockenh.data.sources.yahoo import YahooData
from stockenh.data.sources.yahoo_download import fetch
from stockenh.errors import ConfigError, DataError, StockenhError

__all__ = ["yahoo"]  # a fixture

LONG = days("2020-01-01", 60)


@pytest.fixture
def store(tmp_path):
    return DiskCache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def stamps(monkeypatch):
    """Every download has a second of its own, on one day."""
    clock: Iterator[str] = iter(f"2024-03-08T1200{n:02}Z" for n in range(60))
    monkeypatch.setattr(downloads, "stamp_of", lambda now: next(clock))


def settings(*symbols, **more):
    return YahooData(**{"symbols": list(symbols), "lookback": 20, **more})


def resolve(data, store):
    """The settings with their download, and the printed lines."""
    lines = []
    return data.resolve(store, lambda done, total: None, lines.append), lines


@pytest.fixture
def two(yahoo):
    return yahoo({"AAPL": prices(LONG, 1), "BRK-B": prices(LONG[10:], 2)})


@pytest.mark.usefixtures("two")
def test_a_download_reports_its_progress_and_becomes_adjusted_windows(store):
    data, seen = settings("AAPL", "BRK.B"), []
    data.resolve(store, lambda *done: seen.append(done), lambda text: None)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    windows = data.load(store).windows
    assert windows.symbols == ("AAPL", "BRK.B") and str(windows.bars.time[0])[:10] == LONG[0]
    assert np.bincount(windows.symbol).tolist() == [41, 31]
    own = prices(LONG, 1)
    expected = np.column_stack([own["Open"] / 2, own["Adj Close"], own["Volume"]])
    np.testing.assert_allclose(windows.bars.ohlcv[:60, [0, 3, 4]], expected)


def test_what_was_downloaded_is_used_again_until_a_refresh(two, store):
    first, lines = resolve(settings("AAPL", "BRK.B"), store)
    again, _ = resolve(settings("brk.b", "AAPL"), store)
    assert two.tickers == ["AAPL", "BRK-B"]
    assert first.downloaded == again.downloaded == "2024-03-08T120000Z"
    assert "AAPL, BRK.B as downloaded 2024-03-08" in lines[0] and "refresh" not in lines[0]
    assert "BRK.B is BRK-B" in lines[1]
    assert "data.refresh=true" in resolve(settings("AAPL", "BRK.B"), store)[1][0]
    newer, _ = resolve(settings("AAPL", "BRK.B", refresh=True), store)
    assert len(two.tickers) == 4
    assert (newer.downloaded, newer.refresh) == ("2024-03-08T120001Z", False)
    resolve(settings("AAPL", "BRK.B", end="2021-01-01"), store)
    assert len(two.tickers) == 6


def test_a_run_finds_its_own_download_after_a_refresh(yahoo, store):
    yahoo(AAPL=prices(LONG, 1))
    first, _ = resolve(settings("AAPL"), store)
    before = first.load(store).windows.digest()
    yahoo(AAPL=prices(LONG, 1, adjusted=0.4).iloc[5:])  # a dividend later
    second, _ = resolve(settings("AAPL", refresh=True), store)
    assert resolve(settings("AAPL"), store)[0] == second
    assert resolve(first, store) == (first, [])
    assert first.load(store).windows.digest() == before != second.load(store).windows.digest()


def test_what_yahoo_does_not_know_is_named_and_the_others_go_on(yahoo, store):
    yahoo(AAPL=prices(LONG), NEW=prices(LONG[50:]))
    for _ in range(2):
        loaded = settings("GONE", "AAPL", "NEW").load(store)
        assert loaded.windows.symbols == ("AAPL",)
        finding(loaded, "not-at-yahoo", "possibly delisted", level="error", symbol="GONE")
        finding(loaded, "too-short", level="error", symbol="NEW")  # the rules for files apply
    with pytest.raises(DataError, match=r"data\.symbols: Yahoo has bars of none .*GONE: possibly"):
        settings("GONE").load(store)


@pytest.mark.parametrize(("answer", "why"), [(LIMITED, "rate limit"), (OFFLINE, "can't be reached")])
def test_a_download_goes_on_where_yahoo_stopped_answering(yahoo, store, answer, why):
    first = yahoo(AAPL=prices(LONG, 1), MSFT=answer)
    with pytest.raises(StockenhError, match=r".*data=files data\.path=DIR"):
        settings("MSFT").load(store)
    with pytest.raises(StockenhError, match=rf"^data=yahoo: .*{why}.*\. 1 of 2 symbols are kept") as refused:
        settings("AAPL", "MSFT").load(store)
    assert refused.value.exit_code == 1 and first.tickers == ["MSFT", "AAPL", "MSFT"]
    second = yahoo(AAPL=prices(LONG, 1), MSFT=prices(LONG, 2))
    assert settings("AAPL", "MSFT").load(store).windows.symbols == ("AAPL", "MSFT")
    assert second.tickers == ["MSFT"]
    left = sorted(file.suffix for file in (store.root / "yahoo").glob("*/[!.]*"))
    assert left == [".json", ".parquet"]


def test_of_two_that_want_the_same_one_downloads_and_the_other_waits(yahoo, store, monkeypatch):
    client, waiting, lock = yahoo(AAPL=prices(LONG)), [], fcntl.flock

    def locked(handle, how):
        waiting.append(handle)
        lock(handle, how)

    def slow(*arguments):
        wait_for(lambda: len(waiting) >= 2)  # the other one tries again and again
        return fetch(*arguments)

    monkeypatch.setattr("fcntl.flock", locked)
    monkeypatch.setattr(downloads, "fetch", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(resolve, settings("AAPL"), store) for _ in range(2))
        assert first.result()[0] == second.result()[0]
    assert client.tickers == ["AAPL"]


def test_a_cache_that_can_t_be_written_or_is_not_there_is_an_error(yahoo, tmp_path):
    yahoo(AAPL=prices(LONG))
    (tmp_path / "file").write_text("")
    with pytest.raises(StockenhError, match=r"file/yahoo/\w+ can't be written: Not a directory"):
        settings("AAPL").load(DiskCache(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cache_dir=DIR or \$STOCKENH_CACHE"):
        settings("AAPL").load(DiskCache(None))


@pytest.mark.usefixtures("two")
def test_the_file_says_when_and_what_and_can_be_taken_elsewhere(store):
    data, lines = resolve(settings("AAPL", "BRK.B", start="2020-01-01"), store)
    (file,) = (store.root / "yahoo").glob("*/*.parquet")
    assert str(file) in lines[0]
    assert json.loads(file.with_suffix(".json").read_text()) == {
        "downloaded": "2024-03-08T120000Z", "symbols": ["AAPL", "BRK.B"], "start": "2020-01-01", "end": None,
        "missing": {},
    }  # fmt: skip
    assert pl.read_parquet(file).columns[:3] == ["symbol", "date", "open"]
    digest = data.load(store).windows.digest()
    elsewhere = DiskCache(store.root.parent / "elsewhere")
    with pytest.raises(DataError, match=r"downloaded 2024-03-08 are not in this cache .*data\.path=FILE"):
        data.load(elsewhere)
    moved = file.rename(store.root.parent / "moved.parquet")
    copied = settings("AAPL", "BRK.B", downloaded=data.downloaded, path=str(moved))
    assert resolve(copied, elsewhere) == (copied, [])
    assert copied.load(elsewhere).windows.digest() == digest


@pytest.mark.usefixtures("two")
def test_inputs_of_the_market_are_made_of_what_was_downloaded(store):
    plain, _ = resolve(settings("AAPL", "BRK.B"), store)
    market = replace(plain, market=True)
    names = [data.load(store).windows.context_names for data in (plain, market)]
    assert len(names[1]) == len(names[0]) + 8
