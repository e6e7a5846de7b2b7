"""Forecasts as rows of a ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from stockenh.commands.trained import Trained
from stockenh.data.bars import CLOSE
from stockenh.data.windows import BarWindows
from stockenh.errors import counted
from stockenh.storage import ledger


def record(path: Path, trained: Trained, frame: pl.DataFrame, windows: BarWindows, relative: bool) -> str:
    """Adds forecasts of the newest bars to a ledger; returns the line that says so.

    frame: of `forecast_frame`; relative: whether up is above the median of the day. Raises what
    `ledger.append` does.
    """
    horizons = len(windows.horizons)
    scores = trained.test_scores()
    promised = {
        f"test_{name}": [scores.get(f"h{h}", {}).get(name) for h in windows.horizons] * len(windows)
        for name in ledger.PROMISES
    }
    promised["test_log_loss"] = [
        scores.get(f"h{h}", {}).get("log_loss_calibrated", scores.get(f"h{h}", {}).get("log_loss"))
        for h in windows.horizons
    ] * len(windows)
    close = np.repeat(windows.bars.ohlcv[windows.end, CLOSE], horizons)
    missing = [name for name in ("ret_p10", "ret_p90") if name not in frame.columns]
    rows = frame.with_columns(
        pl.lit(datetime.now(UTC).replace(tzinfo=None)).alias("recorded"),
        pl.lit(trained.source).alias("run"),
        pl.lit(trained.to_dict()["sha256"]).alias("sha256"),
        pl.lit(trained.run.target.name).alias("target"),
        pl.lit(relative).alias("relative"),
        pl.Series("date", np.repeat(windows.asof, horizons).astype("datetime64[us]")),
        pl.Series("close", close),
        *(pl.Series(name, values, pl.Float64) for name, values in promised.items()),
        *(pl.lit(None, pl.Float64).alias(name) for name in missing),
    )
    added, digest = ledger.append(path, rows)
    known = len(rows) - added
    stands = f", {known:,} recorded before" if known else ""
    return f"{counted(added, 'forecast')} added to {path}{stands}; its digest {digest[:16]}"
