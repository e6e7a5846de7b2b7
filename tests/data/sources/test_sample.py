"""The shipped bars: complete, adjusted, and what their provenance says."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest

from stockenh.data.bars import CLOSE, VOLUME, Bars
from stockenh.data.readers import ReadSettings, read_bars
from stockenh.data.sources.files import SAMPLE_FILE, load_sample


@pytest.fixture(scope="module")
def bars() -> Bars:
    return load_sample()


@pytest.fixture(scope="module")
def raw() -> pl.DataFrame:
    return pl.read_parquet(SAMPLE_FILE)


def test_four_symbols_their_dates_and_the_sources_adjusted_close(bars: Bars, raw: pl.DataFrame) -> None:
    assert bars.symbols == ("AAPL", "GOOG", "IBM", "MSFT")
    assert np.diff(bars.offsets).tolist() == [3270, 2148, 3270, 3270]
    spans = [bars.time[bars.rows(s)][[0, -1]].astype("datetime64[D]").astype(str).tolist() for s in range(4)]
    begins = ["2000-03-01", "2004-08-19", "2000-03-01", "2000-03-01"]
    assert spans == [[begin, "2013-03-01"] for begin in begins]
    np.testing.assert_allclose(bars.ohlcv[:, CLOSE], raw["adj_close"].to_numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("symbol", "day"), [("AAPL", "2000-06-21"), ("AAPL", "2005-02-28"), ("MSFT", "2003-02-18")]
)
def test_a_split_leaves_no_jump_and_doubles_earlier_volume(
    bars: Bars, raw: pl.DataFrame, symbol: str, day: str
) -> None:
    rows = bars.rows(bars.symbols.index(symbol))
    at = int(np.flatnonzero(bars.time[rows] == np.datetime64(day))[0])
    ohlcv = bars.ohlcv[rows]
    own = raw.filter(pl.col("symbol") == symbol)
    close, volume = own["close"].to_numpy(), own["volume"].to_numpy()
    assert close[at] / close[at - 1] < 0.56
    assert 0.9 < ohlcv[at, CLOSE] / ohlcv[at - 1, CLOSE] < 1.15
    scale = ohlcv[:, VOLUME] / volume
    assert scale[at - 1] / scale[at] == pytest.approx(2, rel=1e-4)
    assert scale[-1] == 1


def test_the_sample_passes_its_own_checks(bars: Bars) -> None:
    result = read_bars(SAMPLE_FILE, ReadSettings())
    np.testing.assert_array_equal(result.bars.ohlcv[:, :VOLUME], bars.ohlcv[:, :VOLUME])
    scale = bars.ohlcv[:, VOLUME] / result.bars.ohlcv[:, VOLUME]
    assert [len(set(scale[bars.rows(s)].round(9))) for s in range(len(bars.symbols))] == [1] * 4
    assert {finding.level for finding in result.findings} == {"warning"}


def test_unadjusted_the_splits_are_found() -> None:
    found = read_bars(SAMPLE_FILE, ReadSettings(adjust=False)).findings
    splits = {f.symbol: f.message for f in found if f.rule == "raw-split"}
    assert "2:1 on 2000-06-21, 2:1 on 2005-02-28" in splits["AAPL"]
    assert "2:1 on 2003-02-18" in splits["MSFT"]


def test_the_file_is_small_and_the_one_that_provenance_describes() -> None:
    data = SAMPLE_FILE.read_bytes()
    assert len(data) < 400_000
    assert hashlib.sha256(data).hexdigest() in (SAMPLE_FILE.parent / "PROVENANCE.md").read_text()
