from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import numpy as np
import polars as pl
import pytest
from waiting import wait_for
from yahoo_frames import LIMITED, OFFLINE, Answering, Client, days, prices, yahoo

from stockenh.config.schema import settings_of
from stockenh.data.cache import DiskCache
from stockenh.data.sources import yahoo_download as downloads
from stockenh.data.sources.yahoo import YahooData
from stockenh.data.sources.yahoo_download import fetch
from stockenh.data.windows import BarWindows
from stockenh.errors import ConfigError, DataError, StockenhError

__all__ = ["yahoo"]  # a fixture

LONG = days("2020-01-01", 60)


@pytest.fixture
def store(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download has a second of its own, on one day."""
    clock: Iterator[str] = iter(f"2024-03-08T1200{n:02}Z" for n in range(60))
    monkeypatch.setattr(downloads, "stamp_of", lambda now: next(clock))


def settings(*symbols: str, **more: object) -> YahooData:
    return YahooData(**{"symbols": list(symbols), "lookback": 20, **more})  # type: ignore[arg-type]


def settled(data: YahooData, store: DiskCache) -> tuple[YahooData, list[str]]:
    lines: list[str] = []
    return data.resolve(store, lambda done, total: None, lines.append), lines


def bars_of(data: YahooData, store: DiskCache) -> BarWindows:
    windows = data.load(store).windows
    assert isinstance(windows, BarWindows)
    return windows


def two(yahoo: Answering) -> Client:
    return yahoo({"AAPL": prices(LONG, 1), "BRK-B": prices(LONG[10:], 2)})


def test_a_download_becomes_adjusted_windows(yahoo: Answering, store: DiskCache) -> None:
    two(yahoo)
    windows = bars_of(settings("AAPL", "BRK.B"), store)
    assert windows.symbols == ("AAPL", "BRK.B")
    assert np.bincount(windows.symbol).tolist() == [41, 31]
    own = prices(LONG, 1)
    np.testing.assert_allclose(windows.bars.ohlcv[:60, 3], own["Adj Close"])
    np.testing.assert_allclose(windows.bars.ohlcv[:60, 0], own["Open"] / 2)
    np.testing.assert_allclose(windows.bars.ohlcv[:60, 4], own["Volume"])
    assert str(windows.bars.time[0])[:10] == LONG[0]


def test_what_was_downloaded_is_used_again_until_a_refresh(yahoo: Answering, store: DiskCache) -> None:
    client = two(yahoo)
    first, lines = settled(settings("AAPL", "BRK.B"), store)
    again, _ = settled(settings("brk.b", "AAPL"), store)
    assert client.tickers == ["AAPL", "BRK-B"]
    assert first.downloaded == again.downloaded == "2024-03-08T120000Z"
    assert lines[0].startswith("yahoo    AAPL, BRK.B as downloaded 2024-03-08: ")
    assert "refresh" not in lines[0]
    assert lines[1] == "yahoo    as Yahoo writes it, BRK.B is BRK-B"
    assert settled(settings("AAPL", "BRK.B"), store)[1][0].endswith("data.refresh=true downloads newer bars")
    newer, _ = settled(settings("AAPL", "BRK.B", refresh=True), store)
    assert len(client.tickers) == 4
    assert (newer.downloaded, newer.refresh) == ("2024-03-08T120001Z", False)
    settled(settings("AAPL", "BRK.B", end="2021-01-01"), store)
    assert len(client.tickers) == 6


def test_a_run_finds_its_own_download_after_a_refresh(yahoo: Answering, store: DiskCache) -> None:
    yahoo(AAPL=prices(LONG, 1))
    first, _ = settled(settings("AAPL"), store)
    before = first.load(store).windows.digest()
    yahoo(AAPL=prices(LONG, 1, adjusted=0.4).iloc[5:])  # a dividend later
    second, _ = settled(settings("AAPL", refresh=True), store)
    assert settled(settings("AAPL"), store)[0] == second
    assert settled(first, store) == (first, [])
    assert first.load(store).windows.digest() == before != second.load(store).windows.digest()


def test_what_yahoo_does_not_know_is_named_and_the_others_go_on(yahoo: Answering, store: DiskCache) -> None:
    yahoo(AAPL=prices(LONG))
    for _ in range(2):
        loaded = settings("GONE", "AAPL").load(store)
        assert loaded.windows.symbols == ("AAPL",)
        (finding,) = loaded.findings
        assert (finding.level, finding.rule, finding.symbol) == ("error", "not-at-yahoo", "GONE")
        assert "no bars: possibly delisted; no timezone found" in finding.message
    with pytest.raises(DataError, match=r"data\.symbols: Yahoo has bars of none of them \(GONE: possibly"):
        settings("GONE").load(store)


@pytest.mark.parametrize(("answer", "why"), [(LIMITED, "rate limit"), (OFFLINE, "can't be reached")])
def test_a_download_goes_on_where_yahoo_stopped_answering(
    yahoo: Answering, store: DiskCache, answer: str, why: str
) -> None:
    first = yahoo(AAPL=prices(LONG, 1), MSFT=answer)
    with pytest.raises(StockenhError, match=rf"^data=yahoo: .*{why}.*\. 1 of 2 symbols are kept") as refused:
        settings("AAPL", "MSFT").load(store)
    assert refused.value.exit_code == 1 and first.tickers == ["AAPL", "MSFT"]
    second = yahoo(AAPL=prices(LONG, 1), MSFT=prices(LONG, 2))
    assert settings("AAPL", "MSFT").load(store).windows.symbols == ("AAPL", "MSFT")
    assert second.tickers == ["MSFT"]
    left = sorted(file.suffix for file in (store.root / "yahoo").glob("*/[!.]*"))
    assert left == [".json", ".parquet"]


def test_the_first_failure_offers_an_alternative(yahoo: Answering, store: DiskCache) -> None:
    yahoo(AAPL=OFFLINE)
    with pytest.raises(StockenhError, match=r"Try again later, or use bars .*data=files data\.path=DIR"):
        settings("AAPL").load(store)


def test_of_two_that_want_the_same_one_downloads_and_the_other_waits(
    yahoo: Answering, store: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = yahoo(AAPL=prices(LONG))
    waiting, lock = [], fcntl.flock

    def locked(handle: TextIO, how: int) -> None:
        waiting.append(handle)
        lock(handle, how)

    def slow(*arguments: object) -> pl.DataFrame:
        wait_for(lambda: len(waiting) == 2)
        return fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("fcntl.flock", locked)
    monkeypatch.setattr(downloads, "fetch", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(settled, settings("AAPL"), store) for _ in range(2))
        assert first.result()[0] == second.result()[0]
    assert client.tickers == ["AAPL"]


def test_a_cache_that_can_t_be_written_or_is_not_there_is_an_error(yahoo: Answering, tmp_path: Path) -> None:
    yahoo(AAPL=prices(LONG))
    (tmp_path / "file").write_text("")
    with pytest.raises(StockenhError, match=r"file/yahoo/\w+ can't be written: Not a directory"):
        settings("AAPL").load(DiskCache(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cache_dir=DIR or \$STOCKENH_CACHE"):
        settings("AAPL").load(DiskCache(None))


def test_progress_is_reported(yahoo: Answering, store: DiskCache) -> None:
    two(yahoo)
    seen: list[tuple[int, int]] = []
    settings("AAPL", "BRK.B").resolve(store, lambda *at: seen.append(at), lambda text: None)
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_the_file_says_when_and_what_and_can_be_taken_elsewhere(yahoo: Answering, store: DiskCache) -> None:
    two(yahoo)
    data, lines = settled(settings("AAPL", "BRK.B", start="2020-01-01"), store)
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
    assert settled(copied, elsewhere) == (copied, [])
    assert copied.load(elsewhere).windows.digest() == digest


def test_the_rules_for_files_apply(yahoo: Answering, store: DiskCache) -> None:
    yahoo(AAPL=prices(LONG), NEW=prices(LONG[50:]))
    loaded = settings("AAPL", "NEW").load(store)
    assert [(f.rule, f.symbol) for f in loaded.findings if f.level == "error"] == [("too-short", "NEW")]


@pytest.mark.parametrize(
    ("symbols", "more", "message"),
    [
        ([], {}, r"data\.symbols names no symbol: data\.symbols=\[AAPL,MSFT\]"),
        (["AAPL", "aapl"], {}, r"data\.symbols names AAPL twice"),
        (["BRK.B", "BRK-B"], {}, r"data\.symbols names BRK-B twice"),
        (["../x"], {}, r"data\.symbols: '\.\./X' is not a symbol"),
        (["AAPL"], {"start": "01/02/2020"}, r"data\.start=01/02/2020 is not a date such as 2010-01-31"),
        (["AAPL"], {"start": "2021-01-01", "end": "2020-01-01"}, r"data\.start=.* after data\.end=2020"),
        (["AAPL"], {"downloaded": "../../x"}, r"data\.downloaded=\.\./\.\./x is not a download's stamp"),
        (["AAPL"], {"refresh": True, "path": "x"}, r"data\.refresh=true .* data\.path"),
        (["AAPL"], {"max_gap_days": 0}, r"data\.max_gap_days=0"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    symbols: list[str], more: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of("data", YahooData, {"symbols": symbols, **more})
