"""Bars that tests make up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl


def write_bars(path: Path, seed: int, bars: int = 160) -> None:
    """A CSV file of a random walk's valid daily bars."""
    rng = np.random.default_rng(seed)
    days = np.busday_offset("2020-01-01", np.arange(bars), roll="forward")
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, bars)))
    lines = [
        f"{day},{price * 0.999:.4f},{price * 1.01:.4f},{price * 0.99:.4f},{price:.4f},{volume}"
        for day, price, volume in zip(days, close, rng.integers(1_000, 9_000, bars), strict=True)
    ]
    path.write_text("\n".join(["Date,Open,High,Low,Close,Volume", *lines]) + "\n", encoding="utf-8")


def write_ready_windows(path: Path) -> None:
    """A Parquet file of the windows of two symbols, without bars."""
    rng = np.random.default_rng(0)
    rows = 200
    returns = rng.normal(0, 0.03, (rows, 3)).astype(np.float32)
    days = np.datetime64("2024-01-01") + np.arange(rows) // 2
    columns = {
        "symbol": ["A", "B"] * (rows // 2),
        "asof": days.tolist(),
        "ohlcv_norm": rng.uniform(-1, 1, (rows, 120, 5)).astype(np.float32).tolist(),
        "kronos_emb": rng.normal(size=(rows, 32)).astype(np.float32).tolist(),
        "context": rng.normal(size=(rows, 29)).astype(np.float32).tolist(),
        "y_ret": returns.tolist(),
        "y_up": (returns > 0).astype(int).tolist(),
    }
    pl.DataFrame(columns).write_parquet(path)
