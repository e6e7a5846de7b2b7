"""The shipped bars: complete, adjusted, and what their provenance says."""

import hashlib

import numpy as np
import polars as pl
import pytest

from stockenh.data.bars import CLOSE, VOLUME
from stockenh.data.readers.read import ReadSettings, read_bars
from stockenh.data.sources.files import SAMPLE_FILE, load_sample


@pytest.fixture(scope="module")
def bars():
    return load_sample()


@pytest.fixture(scope="module")
def raw():
    return pl.read_parquet(SAMPLE_FILE)


def test_four_symbols_their_dates_and_the_sources_adjusted_close(bars, raw):
    days, ends = bars.time.astype("datetime64[D]").astype(str), bars.offsets
    assert bars.symbols == ("AAPL", "GOOG", "IBM", "MSFT")
    assert np.diff(ends).tolist() == [3270, 2148, 3270, 3270]
    assert days[ends[:-1]].tolist() == ["2000-03-01", "2004-08-19", "2000-03-01", "2000-03-01"]
    assert days[ends[1:] - 1].tolist() == ["2013-03-01"] * 4
    np.testing.assert_allclose(bars.ohlcv[:, CLOSE], raw["adj_close"].to_numpy(), rtol=1e-12)


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


def test_the_sample_passes_its_own_checks(bars):
    result = read_bars(SAMPLE_FILE, ReadSettings())
    np.testing.assert_array_equal(result.bars.ohlcv[:, :VOLUME], bars.ohlcv[:, :VOLUME])
    scale = bars.ohlcv[:, VOLUME] / result.bars.ohlcv[:, VOLUME]
    assert [len(set(scale[bars.rows(s)].round(9))) for s in range(len(bars.symbols))] == [1] * 4
    assert {finding.level for finding in result.findings} == {"warning"}


def test_unadjusted_the_splits_are_found():
    found = read_bars(SAMPLE_FILE, ReadSettings(adjust=False)).findings
    splits = {f.symbol: f.message for f in found if f.rule == "raw-split"}
    assert "2:1 on 2000-06-21, 2:1 on 2005-02-28" in splits["AAPL"]
    assert "2:1 on 2003-02-18" in splits["MSFT"]


def test_the_file_is_small_and_the_one_that_provenance_describes():
    data = SAMPLE_FILE.read_bytes()
    assert len(data) < 400_000
    assert hashlib.sha256(data).hexdigest() in (SAMPLE_FILE.parent / "PROVENANCE.md").read_text()
