"""The real daily bars that come with the package, so that a first run needs no data and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from stockenh.data.adjust import adjust_bars
from stockenh.data.bars import Bars

SAMPLE_FILE: Final = Path(__file__).parent / "sample" / "bars.parquet"


def load_sample() -> Bars:
    """AAPL, GOOG, IBM and MSFT from March 2000 (GOOG: August 2004) to March 2013, 11,958 adjusted bars.

    The file holds prices as traded beside an adjusted close, and goes through the adjustment that files get;
    sample/PROVENANCE.md says where it comes from.
    """
    table = pl.read_parquet(SAMPLE_FILE)
    series = []
    for (symbol,), rows in table.group_by("symbol", maintain_order=True):
        ohlcv = rows.select("open", "high", "low", "close", "volume").cast(pl.Float64).to_numpy()
        time = rows["date"].to_numpy().astype("datetime64[s]")
        series.append((str(symbol), time, adjust_bars(ohlcv, rows["adj_close"].to_numpy())))
    return Bars.from_series(series)
