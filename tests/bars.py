"""Bars that tests make up."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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
