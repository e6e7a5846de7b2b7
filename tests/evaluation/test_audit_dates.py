"""Windows are known again by the shapes of their bars, whatever their scale."""

from __future__ import annotations

import numpy as np
import torch
from random_walks import walks

from stockenh.data.prices import normalise
from stockenh.evaluation.leakage import check_dates, fingerprints

RNG = np.random.default_rng(0)


def candles(n: int) -> np.ndarray:
    close = 50 * np.exp(RNG.normal(0, 0.02, n).cumsum())
    opening = close * np.exp(RNG.normal(0, 0.01, n))
    high = np.maximum(opening, close) * np.exp(np.abs(RNG.normal(0, 0.01, n)))
    low = np.minimum(opening, close) * np.exp(-np.abs(RNG.normal(0, 0.01, n)))
    return np.column_stack([opening, high, low, close, np.ones(n)])


def windows(bars: np.ndarray, ends: range, length: int = 20) -> np.ndarray:
    raw = np.stack([bars[end - length + 1 : end + 1] for end in ends])
    return normalise(torch.from_numpy(raw.astype(np.float32))).numpy()


BARS = candles(300)


def test_the_same_bars_have_the_same_fingerprint_in_every_window():
    one, two = (
        fingerprints(windows(BARS, range(100, 101)))[0],
        fingerprints(windows(BARS, range(107, 108)))[0],
    )
    np.testing.assert_array_equal(one[0, 7:], two[0, :-7])
    assert len(np.unique(fingerprints(windows(BARS, range(20, 300)))[0][:, -1])) == 280


def test_windows_apart_in_time_pass_and_mixed_ones_are_caught():
    early, late = windows(BARS, range(20, 200)), windows(BARS, range(205, 300))
    assert check_dates([early], [late], 20).finding == "pass"
    mixed = np.concatenate([early, late])[RNG.permutation(275)]
    found = check_dates([mixed[:100], mixed[100:200]], [mixed[200:]], 20)
    assert found.finding == "FAIL" and found.figures["found_in_train"] > 60


def test_bars_without_a_shape_tell_nothing():
    flat = walks(60, 1).ohlcv  # open and close are the same share of the range at every bar
    flat[:, :4] = flat[:, 3:4]
    key, telling = fingerprints(windows(flat, range(20, 60)))
    assert not telling.any() and key.shape == (40, 16)
    assert (
        check_dates([windows(flat, range(20, 40))], [windows(flat, range(40, 60))], 20).figures["windows"]
        == 0
    )
    assert check_dates([], [], 8).finding == "n/a"
