import hashlib
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
from bar_files import numbers, rows, write

from stockenh.config.schema import settings_of
from stockenh.data import features
from stockenh.data import readers as read
from stockenh.data.bars import CLOSE, VOLUME
from stockenh.data.cache import DiskCache
from stockenh.data.readers import ReadSettings, read_bars
from stockenh.data.sources.files import SAMPLE_FILE, FilesData, SampleData, load_sample
from stockenh.data.sources.synthetic import SyntheticData, best_probabilities, generate
from stockenh.data.sources.windows_file import WindowsData
from stockenh.data.sources.yahoo import YahooData
from stockenh.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    """Two symbols of 60 bars; one bar of B can't be used."""
    bad = rows(60, seed=2)
    bad[10][2] = "n/k"
    (tmp_path / "bars").mkdir()
    write(tmp_path / "bars" / "A.csv", rows(60, seed=1))
    return write(tmp_path / "bars" / "B.csv", bad).parent


@pytest.fixture
def store(tmp_path):
    return DiskCache(tmp_path / "cache")


@pytest.fixture
def load(folder, store):
    def load(path=folder, **settings):
        return FilesData(**{"path": str(path), "lookback": 20, **settings}).load(store)

    return load


@pytest.fixture
def reads(monkeypatch):
    monkeypatch.setattr(read, "read_bars", Mock(wraps=read.read_bars))
    return read.read_bars


@pytest.fixture
def computed(monkeypatch):
    monkeypatch.setattr(features, "context_features", Mock(wraps=features.context_features))
    return features.context_features


def test_files_become_windows_with_what_was_found(load):
    loaded = load()
    windows = loaded.windows
    assert (windows.symbols, np.bincount(windows.symbol).tolist()) == (("A", "B"), [41, 40])
    np.testing.assert_array_equal(windows.bars.ohlcv[:60], numbers(60, seed=1))
    assert [(f.rule, f.file, f.rows) for f in loaded.findings] == [("number-unreadable", "B.csv", 1)]
    assert windows.best_prob is None and windows.take(np.array([1])).best_prob is None


def test_the_second_time_nothing_is_read_or_computed_and_all_is_the_same(load, reads, computed):
    first, second = load(), load()
    assert (reads.call_count, computed.call_count) == (1, 1)
    assert first.findings == second.findings
    assert first.windows.digest() == second.windows.digest()
    for name in ("symbols", "symbol", "asof", "context", "y_ret", "end", "last"):
        np.testing.assert_array_equal(getattr(first.windows, name), getattr(second.windows, name))


def one_price(folder):
    cells = rows(60, seed=1)
    cells[59][4] = cells[59][3]
    write(folder / "A.csv", cells)


def test_long_reading_is_announced_once(folder, tmp_path, monkeypatch):
    said = []
    cache = DiskCache(tmp_path / "noted", said.append)
    FilesData(path=str(folder), lookback=20).load(cache)
    assert not said
    monkeypatch.setattr(read, "_LONG", 1)
    for _ in range(2):
        FilesData(path=str(folder), lookback=20, max_gap_days=9).load(cache)
    (line,) = said
    assert line.startswith("reading 2 files, 0.0 GB")


@pytest.mark.parametrize(
    "change",
    [one_price, lambda folder: (folder / "A.csv").rename(folder / "C.csv"), lambda f: (f / "B.csv").unlink()],
)
def test_changed_files_are_read_again(folder, load, reads, computed, change):
    before = load().windows.digest()
    change(folder)
    assert load().windows.digest() != before
    assert (reads.call_count, computed.call_count) == (2, 2)


def test_every_setting_of_reading_has_its_own_entry(load, reads):
    variants = [
        {}, {"adjust": False}, {"max_gap_days": 9}, {"lookback": 22}, {"columns": {"open": "Open"}},
        {"horizons": [4, 8]},
    ]  # fmt: skip
    for variant in variants:
        load(**variant)
    assert reads.call_count == len(variants)


def test_other_timeframes_and_later_horizons_need_no_new_reading(load, reads, computed):
    load(horizons=[3, 5])
    assert load(horizons=[3, 7, 9]).windows.y_ret.shape[1] == 3
    assert (reads.call_count, computed.call_count) == (1, 1)
    assert load(timeframes=["1d"]).windows.context_names[:2] == ("align_1d", "bull_ob_count")
    assert (reads.call_count, computed.call_count) == (1, 2)


def test_without_usable_bars_the_first_reason_is_shown(folder, load):
    with pytest.raises(DataError, match=r"no usable bars\. A\.csv.*60"):
        load(lookback=58)
    for file in folder.iterdir():
        file.write_text("Error: limit reached\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"bars: no usable bars\. A\.csv: .*stockenh data check .*bars$"):
            load()


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_a_path_without_files_names_the_key(tmp_path, load, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.path"):
        load(tmp_path / path)


def test_the_sample_needs_no_file_and_keeps_its_features(store, computed):
    first, second = SampleData().load(store), SampleData().load(store)
    assert computed.call_count == 1 and first.findings == ()
    assert first.windows.symbols == ("AAPL", "GOOG", "IBM", "MSFT")
    assert len(first.windows) == len(first.windows.bars) - 4 * 119
    np.testing.assert_array_equal(first.windows.context, second.windows.context)


def test_a_generated_market_brings_its_best_probabilities_and_may_be_too_short(store, computed):
    settings = SyntheticData(symbols=2, bars=150, horizons=[2, 7])
    first, second = settings.load(store).windows, settings.load(store).windows
    assert computed.call_count == 1
    assert first.symbols == ("SYN001", "SYN002") and len(first) == 2 * 31
    assert first.best_prob.shape == (62, 2)
    np.testing.assert_array_equal(first.best_prob, second.best_prob)
    picked = np.array([40, 3])
    np.testing.assert_array_equal(first.take(picked).best_prob, first.best_prob[picked])
    market = SyntheticData(symbols=2, bars=150)
    whole = best_probabilities(generate(market), market, [2, 7])
    np.testing.assert_array_equal(first.best_prob[[0, 61]], whole[[119, 299]])
    with pytest.raises(DataError, match=r"no symbol has the 120 bars of data\.lookback and the 3 more"):
        SyntheticData(symbols=2, bars=122).load(store)


@pytest.mark.parametrize("kind", [FilesData, SampleData, SyntheticData, WindowsData])
@pytest.mark.parametrize("horizons", [[], [0, 3], [5, 3], [3, 3]])
def test_horizons_must_increase(kind, horizons):
    with pytest.raises(ConfigError, match=r"data\.horizons=\[.*\] must be increasing"):
        kind(horizons=horizons)


def yahoo_data(*symbols, **more):
    return {"symbols": list(symbols), **more}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (FilesData, {"lookback": 2}, r"data\.lookback=2"),
        (FilesData, {"timeframes": ["1d", "1d"]}, r"data\.timeframes=.*: name each once"),
        (FilesData, {"timeframes": ["soon"]}, r"data\.timeframes.*soon"),
        (FilesData, {"max_gap_days": 0}, r"data\.max_gap_days=0 must be at least 1"),
        (FilesData, {"columns": {"kurs": "C"}}, r"data\.columns\.kurs.*Options: adj_close, close, date"),
        (SyntheticData, {"symbols": 0}, r"data\.symbols=0 must be at least 1"),
        (SyntheticData, {"bars": 0}, r"data\.bars=0 must be at least 1"),
        (SyntheticData, {"seed": -1}, r"data\.seed=-1 must be at least 0"),
        (SyntheticData, {"strength": -0.1}, r"data\.strength=-0\.1 must be at least 0"),
        (SyntheticData, {"strength": float("nan")}, r"data\.strength=nan"),
        (SyntheticData, {"start": "2012"}, r"data\.start=2012 is not a date"),
        (SyntheticData, {"start": "2012-13-01"}, r"data\.start=2012-13-01 is not a date"),
        (YahooData, yahoo_data(), r"data\.symbols names no symbol: data\.symbols=\[AAPL,MSFT\]"),
        (YahooData, yahoo_data("AAPL", "aapl"), r"data\.symbols names AAPL twice"),
        (YahooData, yahoo_data("BRK.B", "BRK-B"), r"data\.symbols names BRK-B twice"),
        (YahooData, yahoo_data("../x"), r"data\.symbols: '\.\./X' is not a symbol"),
        (YahooData, yahoo_data("A", start="01/02/2020"), r"data\.start=01/02/2020 is not a date"),
        (YahooData, yahoo_data("A", start="2021-01-01", end="2020-01-01"), r"data\.start=.* data\.end=2020"),
        (YahooData, yahoo_data("A", downloaded="../../x"), r"data\.downloaded=\.\./\.\./x is not a"),
        (YahooData, yahoo_data("A", refresh=True, path="x"), r"data\.refresh=true .* data\.path"),
        (YahooData, yahoo_data("A", max_gap_days=0), r"data\.max_gap_days=0"),
    ],
)
def test_wrong_settings_are_refused_by_name(kind, settings, message):
    needed = {"path": "x"} if kind is FilesData else {"lookback": 20} if kind is YahooData else {}
    with pytest.raises(ConfigError, match=message):
        settings_of("data", kind, {**needed, **settings})


@pytest.fixture(scope="module")
def bars():
    return load_sample()


@pytest.fixture(scope="module")
def raw():
    return pl.read_parquet(SAMPLE_FILE)


def test_the_sample_is_the_one_that_its_provenance_describes(bars, raw):
    days, ends = bars.time.astype("datetime64[D]").astype(str), bars.offsets
    assert bars.symbols == ("AAPL", "GOOG", "IBM", "MSFT")
    assert np.diff(ends).tolist() == [3270, 2148, 3270, 3270]
    assert days[ends[:-1]].tolist() == ["2000-03-01", "2004-08-19", "2000-03-01", "2000-03-01"]
    assert days[ends[1:] - 1].tolist() == ["2013-03-01"] * 4
    np.testing.assert_allclose(bars.ohlcv[:, CLOSE], raw["adj_close"].to_numpy(), rtol=1e-12)
    data = SAMPLE_FILE.read_bytes()
    assert len(data) < 400_000
    assert hashlib.sha256(data).hexdigest() in (SAMPLE_FILE.parent / "PROVENANCE.md").read_text()


@pytest.mark.parametrize(
    ("symbol", "day"), [("AAPL", "2000-06-21"), ("AAPL", "2005-02-28"), ("MSFT", "2003-02-18")]
)
def test_a_split_leaves_no_jump_and_doubles_earlier_volume(bars, raw, symbol, day):
    rows = bars.rows(bars.symbols.index(symbol))
    at = int(np.flatnonzero(bars.time[rows] == np.datetime64(day))[0])
    ohlcv, own = bars.ohlcv[rows], raw.filter(pl.col("symbol") == symbol)
    assert own["close"][at] / own["close"][at - 1] < 0.56
    assert 0.9 < ohlcv[at, CLOSE] / ohlcv[at - 1, CLOSE] < 1.15
    scale = ohlcv[:, VOLUME] / own["volume"].to_numpy()
    assert scale[at - 1] / scale[at] == pytest.approx(2, rel=1e-4)
    assert scale[-1] == 1


def test_the_sample_passes_its_own_checks_and_unadjusted_shows_its_splits(bars):
    result = read_bars(SAMPLE_FILE, ReadSettings())
    np.testing.assert_array_equal(result.bars.ohlcv[:, :VOLUME], bars.ohlcv[:, :VOLUME])
    scale = bars.ohlcv[:, VOLUME] / result.bars.ohlcv[:, VOLUME]
    assert [len(set(scale[bars.rows(s)].round(9))) for s in range(len(bars.symbols))] == [1] * 4
    assert {finding.level for finding in result.findings} == {"warning"}
    found = read_bars(SAMPLE_FILE, ReadSettings(adjust=False)).findings
    splits = {f.symbol: f.message for f in found if f.rule == "raw-split"}
    assert "2:1 on 2000-06-21, 2:1 on 2005-02-28" in splits["AAPL"]
    assert "2:1 on 2003-02-18" in splits["MSFT"]
