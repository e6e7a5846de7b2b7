"""Intervals of a reliability diagram's bins."""

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.reliability import reliability_intervals
from stockenh.inference.calibration import reliability_curves

DAYS = np.repeat(np.arange("2020-01-01", "2020-07-19", dtype="datetime64[D]"), 5)


def rows(seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.3, 0.7, (len(DAYS), 2))
    return p, np.where(rng.uniform(size=p.shape) < p, 1.0, -1.0)


def test_each_bin_has_an_interval_around_its_share_of_up():
    p, y = rows()
    y[::7, 1] = 0  # ties are in no bin
    found = reliability_intervals(p, y, DAYS, (1, 3), Resampling())
    for horizon, (forecast, share, count) in reliability_curves(p, y, (1, 3)).items():
        low, high = found[horizon]
        assert low.shape == high.shape == forecast.shape and (low < share).all() and (share < high).all()
        binomial = 2 * 1.96 * np.sqrt(share * (1 - share) / count)
        np.testing.assert_allclose(np.mean((high - low) / binomial), 1, atol=0.25)  # independent rows


def test_symbols_that_move_together_have_wider_intervals():
    p, y = rows()
    together = np.repeat(y[::5], 5, axis=0)
    widths = [
        np.mean(np.subtract(*reliability_intervals(p, labels, DAYS, (1, 3), Resampling())["h1"][::-1]))
        for labels in (y, together)
    ]
    assert widths[1] > widths[0]


@pytest.mark.parametrize("labelled", [0, 5])
def test_too_few_dates_have_none(labelled):
    p, y = rows()
    y[labelled:] = np.nan
    low, high = reliability_intervals(p, y, DAYS, (1, 3), Resampling())["h3"]
    assert np.isnan(low).all() and np.isnan(high).all()
    assert len(low) == len(reliability_curves(p, y, (1, 3))["h3"][0])
