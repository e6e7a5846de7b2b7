"""Past moves and next returns, from bars and from scaled windows."""

from __future__ import annotations

import numpy as np
import pytest
from random_walks import walks

from stockenh.data.bars import CLOSE
from stockenh.data.prices import normalise
from stockenh.data.windows import StoredWindows, index_windows, next_returns, past_moves

torch = pytest.importorskip("torch")


def windows_of(bars):
    return index_windows(bars, np.zeros((len(bars), 1), np.float32), ("x",), (1, 3), 20)


def test_a_past_move_ends_at_the_bar_of_the_forecast_and_a_next_return_begins_there():
    bars = walks(30, 2)
    windows = windows_of(bars)
    rows = np.arange(len(windows))
    close = bars.ohlcv[:, CLOSE]
    found = past_moves(windows, rows, 3)
    after = next_returns(windows, rows)
    for row in rows:
        end = windows.end[row]
        assert found[row] == pytest.approx(close[end] / close[end - 3] - 1)
        if end == windows.last[row]:
            assert np.isnan(after[row])
        else:
            assert after[row] == pytest.approx(close[end + 1] / close[end] - 1)
    assert np.isnan(after).sum() == 2


def test_no_move_reaches_beyond_the_window():
    windows = windows_of(walks(30, 1))
    assert (past_moves(windows, np.arange(5), 60) == past_moves(windows, np.arange(5), 19)).all()


def test_later_bars_change_no_past_move():
    rows = np.arange(8)
    short, long = windows_of(walks(30, 1)), windows_of(walks(45, 1))
    assert (past_moves(short, rows, 5) == past_moves(long, rows, 5)).all()


def test_a_scaled_window_has_the_sign():
    bars = walks(40, 1)
    windows = windows_of(bars)
    rows = np.arange(len(windows))
    raw = torch.from_numpy(np.stack([bars.ohlcv[e - 19 : e + 1] for e in windows.end]).astype(np.float32))
    stored = StoredWindows(
        symbols=windows.symbols, symbol=windows.symbol, asof=windows.asof, context=windows.context,
        context_names=("x",), y_ret=windows.y_ret, horizons=windows.horizons, lookback=20,
        ohlcv_norm=normalise(raw).numpy(), embedding=np.zeros((len(windows), 0), np.float32),
    )  # fmt: skip
    assert (np.sign(past_moves(stored, rows, 5)) == np.sign(past_moves(windows, rows, 5))).all()


def test_a_flat_past_is_exactly_0():
    bars = walks(30, 1)
    bars.ohlcv[:, CLOSE] = 10 * (1 + 1e-12 * np.arange(30))
    assert (past_moves(windows_of(bars), np.arange(4), 5) == 0).all()
