"""Makes stockenh/data/sample/bars.parquet from the PyPI package bokeh_sampledata, once.

Run with bokeh_sampledata 2026.1 installed: python tools/make_sample.py
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import polars as pl

SYMBOLS = ("AAPL", "GOOG", "IBM", "MSFT")
TARGET = Path(__file__).parents[1] / "stockenh" / "data" / "sample" / "bars.parquet"


def source_file() -> Path:
    """The package's compressed CSV; the package itself is not imported, since that reads all of it."""
    spec = importlib.util.find_spec("bokeh_sampledata")
    if spec is None or spec.origin is None:
        raise SystemExit("bokeh_sampledata is not installed: pip install bokeh_sampledata==2026.1")
    return Path(spec.origin).parent / "_data" / "stocks.csv.gz"


def main() -> None:
    """Writes the raw, unadjusted columns beside the adjusted close, by symbol and date."""
    source = source_file()
    table = pl.read_csv(source, try_parse_dates=True)
    bars = table.filter(pl.col("Ticker").is_in(SYMBOLS)).select(
        symbol=pl.col("Ticker"),
        date=pl.col("Date"),
        open=pl.col("Open"),
        high=pl.col("High"),
        low=pl.col("Low"),
        close=pl.col("Close"),
        volume=pl.col("Volume"),
        adj_close=pl.col("Adj Close"),
    )
    bars = bars.sort("symbol", "date")
    bars.write_parquet(TARGET, compression="zstd", compression_level=22, statistics=False)
    for path in (source, TARGET):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}: {path.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
