"""Conformalised quantile regression: by hand, its guarantee, and what a stored file may hold."""

import numpy as np
import pytest

from stockenh.errors import RunFolderError
from stockenh.inference.conformal import Conformal, has_interval, read_conformals

LEVELS = (0.1, 0.5, 0.9)


def quantiles_of(low, middle, high, rows):
    return np.broadcast_to(np.array([low, middle, high]), (rows, 1, 3)).astype(np.float64)


def test_the_widening_by_hand():
    # 39 labels: the 32nd smallest of max(low - y, y - high) covers 40 x 80% of them
    y = np.arange(39.0)[:, None]
    found = Conformal.fit(quantiles_of(-100, 0, 20, 39), LEVELS, y)
    assert found.widening == (11.0,)  # of the distances -20 to 18
    narrow = Conformal.fit(quantiles_of(-100, 0, 50, 39), LEVELS, y)
    assert narrow.widening == (-19.0,)
    interval = found.interval(quantiles_of(-3, 1, 4, 2), LEVELS)
    np.testing.assert_array_equal(interval, [[[-14, 15]], [[-14, 15]]])
    # the median is never outside
    np.testing.assert_array_equal(narrow.interval(quantiles_of(-3, 1, 4, 1), LEVELS), [[[1, 1]]])


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_new_labels_are_covered_whatever_the_quantiles_are(scale):
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2, 40_000)
    y = (spread * rng.standard_t(4, 40_000))[:, None]
    quantiles = (scale * spread)[:, None, None] * np.array([-1.3, 0.1, 1.5])
    fitted = Conformal.fit(quantiles[:20_000], LEVELS, y[:20_000])
    low, high = fitted.interval(quantiles[20_000:], LEVELS)[:, 0].T
    assert ((low <= y[20_000:, 0]) & (y[20_000:, 0] <= high)).mean() == pytest.approx(0.8, abs=0.01)


def test_each_horizon_counts_its_own_labels_and_few_labels_change_nothing():
    y = np.full((60, 2), np.nan)
    y[:40, 0], y[:29, 1] = 5.0, 5.0
    quantiles = np.broadcast_to(np.array([-1.0, 0.0, 1.0]), (60, 2, 3))
    assert Conformal.fit(quantiles, LEVELS, y).widening == (4.0, 0.0)
    broken = np.where(np.arange(60)[:, None, None] == 3, np.inf, quantiles)
    assert Conformal.fit(broken, LEVELS, y).widening == (0.0, 0.0)


@pytest.mark.parametrize(
    ("levels", "has"),
    [(LEVELS, True), ((0.05, 0.1, 0.5, 0.9), True), ((0.05, 0.5, 0.95), False), ((), False)],
)
def test_an_interval_takes_its_two_levels(levels, has):
    assert has_interval(levels) is has


@pytest.mark.parametrize(
    "values",
    [
        {"raw": {"widening": [0.1, 0.2]}},  # of two horizons
        {"raw": {"widening": [1e300]}},
        {"raw": {"widening": ["0.1"]}},
        {"raw": {"widening": [None]}},
        {"raw": {"widening": [0.1], "more": 1}},
        {"raw": {}},
        [],
    ],
)
def test_other_content_is_refused(values):
    with pytest.raises(RunFolderError, match=r"conformal\.json"):
        read_conformals(values, 1)


def test_what_is_written_is_read():
    assert read_conformals({"ema": Conformal((0.25,)).to_dict()}, 1) == {"ema": Conformal((0.25,))}
