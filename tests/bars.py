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


def write_windows(
    path: Path, rows: int, symbols: int, planted: int | None, lookback: int = 20, width: int = 4
) -> None:
    """Ready windows. The sign of one of 29 context features decides every label, or a coin does."""
    rng = np.random.default_rng(0)
    context = rng.normal(size=(rows, 29))
    decides = rng.normal(size=rows) if planted is None else context[:, planted]
    returns = (0.02 * np.sign(decides) + rng.normal(0, 0.005, rows))[:, None].repeat(3, 1)
    days = np.datetime64("2022-01-01", "ms") + np.arange(rows) // symbols * np.timedelta64(1, "D")
    pl.DataFrame(
        {
            "symbol": ["ABC"[i % symbols] for i in range(rows)],
            "asof": days,
            "ohlcv_norm": rng.uniform(-1, 1, (rows, lookback, 5)).astype(np.float32).tolist(),
            "kronos_emb": rng.normal(3, 1, (rows, width)).astype(np.float32).tolist(),
            "context": context.astype(np.float32).tolist(),
            "y_ret": returns.astype(np.float32).tolist(),
            "y_up": (returns > 0).astype(int).tolist(),
        }
    ).write_parquet(path)


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
