"""The real daily bars that come with the package, so that a first run needs no data and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from stockenh.data.adjust import adjust_bars
from stockenh.data.bars import VOLUME, Bars

SAMPLE_FILE: Final = Path(__file__).parent / "sample" / "bars.parquet"


def load_sample() -> Bars:
    """AAPL, GOOG, IBM and MSFT from March 2000 (GOOG: August 2004) to March 2013, 11,958 adjusted bars.

    The file holds prices as traded beside an adjusted close, and goes through the adjustment that files get.
    Volume is then put into the shares of the last bar: before a 2:1 split it is twice what was traded.
    sample/PROVENANCE.md says where the bars come from.
    """
    table = pl.read_parquet(SAMPLE_FILE)
    series = []
    for (symbol,), rows in table.group_by("symbol", maintain_order=True):
        ohlcv = rows.select("open", "high", "low", "close", "volume").cast(pl.Float64).to_numpy()
        time = rows["date"].to_numpy().astype("datetime64[s]")
        adjusted = adjust_bars(ohlcv, rows["adj_close"].to_numpy())
        adjusted[:, VOLUME] *= ohlcv[-1, VOLUME] / adjusted[-1, VOLUME]
        series.append((str(symbol), time, adjusted))
    return Bars.from_series(series)
