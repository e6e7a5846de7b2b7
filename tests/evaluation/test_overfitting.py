"""Deflated Sharpe ratio against the example of its paper, overfitting against counts and simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kurtosis, norm, skew

from stockenh.evaluation.overfitting import (
    backtest_overfitting,
    best_by_chance,
    deflated_sharpe,
    overfitting_figures,
)
from stockenh.evaluation.portfolio import rank_weighted_returns


def noise(seed, dates=320, trials=20):
    return np.random.default_rng(seed).normal(0, 0.01, (dates, trials))


def test_the_example_of_the_paper():
    """Bailey and Lopez de Prado (2014): 100 trials of variance 1/2 a year, 2.5 a year on 1,250 days."""
    chance = best_by_chance(0.5 / 250, 100)
    assert chance == pytest.approx(0.1132, abs=1e-4)
    found = deflated_sharpe(2.5 / 250**0.5, chance, 1250, skew=-3, kurtosis=10)
    assert found == pytest.approx(0.9004, abs=1e-4)
    # with 46 trials it would have been significant, and with 88 independent of each other and normal too
    assert deflated_sharpe(2.5 / 250**0.5, best_by_chance(0.5 / 250, 46), 1250, -3, 10) > 0.95
    assert deflated_sharpe(2.5 / 250**0.5, best_by_chance(0.5 / 250, 88), 1250, 0, 3) > 0.95


@pytest.mark.parametrize("trials", [2, 5, 50])
def test_chance_is_the_expected_maximum_of_normal_trials(trials):
    best = np.random.default_rng(0).normal(0, 0.3, (40_000, trials)).max(1).mean()
    # the formula is asymptotic: of two trials it says 0.52 deviations and not 0.56
    assert best_by_chance(0.09, trials) == pytest.approx(best, rel=0.09)
    assert best_by_chance(0.0, trials) == 0


def test_figures_are_those_of_scipy():
    returns = np.random.default_rng(1).standard_t(5, (250, 8)) * 0.01 + 0.0005
    sharpes = returns.mean(0) / returns.std(0, ddof=1)
    found = overfitting_figures(returns, best=3)
    chance = sharpes.std(ddof=1) * (
        (1 - np.euler_gamma) * norm.ppf(1 - 1 / 8) + np.euler_gamma * norm.ppf(1 - 1 / (8 * math.e))
    )
    own = returns[:, 3]
    spread = np.sqrt(1 - skew(own) * sharpes[3] + (kurtosis(own, fisher=False) - 1) / 4 * sharpes[3] ** 2)
    assert found["sharpe"] == pytest.approx(sharpes[3]) and found["chance"] == pytest.approx(chance)
    assert found["deflated"] == pytest.approx(norm.cdf((sharpes[3] - chance) * 249**0.5 / spread))
    assert (found["trials"], found["dates"]) == (8, 250)


def test_overfitting_by_counting():
    """Every half of four blocks by hand."""
    returns = noise(2, dates=43, trials=5)
    blocks = np.split(returns[3:], 4)  # the oldest dates that fill no block are left out
    count = 0
    for half in combinations(range(4), 2):
        inside = np.concatenate([blocks[k] for k in half])
        outside = np.concatenate([blocks[k] for k in range(4) if k not in half])
        best = (inside.mean(0) / inside.std(0, ddof=1)).argmax()
        others = outside.mean(0) / outside.std(0, ddof=1)
        relative = (others <= others[best]).sum() / 6
        count += math.log(relative / (1 - relative)) <= 0
    assert backtest_overfitting(returns) == pytest.approx(count / 6)


def test_noise_is_overfitted_half_of_the_time_and_not_significant():
    figures = [overfitting_figures(returns, best_of(returns)) for returns in map(noise, range(40))]
    assert np.mean([f["pbo"] for f in figures]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([f["deflated"] > 0.95 for f in figures]) <= 0.05
    assert np.mean([f["deflated"] for f in figures]) == pytest.approx(0.5, abs=0.1)


def best_of(returns):
    return int((returns.mean(0) / returns.std(0)).argmax())


def test_a_trial_that_is_better_is_found():
    returns = noise(5)
    returns[:, 7] += 0.004
    found = overfitting_figures(returns, 7)
    assert found["pbo"] < 0.01 and found["deflated"] > 0.95
    assert overfitting_figures(returns, 6)["deflated"] < 0.5


def test_equal_trials_constant_returns_and_few_dates_have_what_is_defined():
    same = np.repeat(noise(1)[:, :1], 3, axis=1)
    found = overfitting_figures(same, 0)
    assert found["chance"] == pytest.approx(0) and found["pbo"] == 1  # the middle rank is no better than it
    flat = overfitting_figures(np.full((50, 2), 0.01), 0)
    assert flat["deflated"] is None and flat["sharpe"] == 0
    assert backtest_overfitting(noise(0, dates=39)) is None
    assert backtest_overfitting(noise(0, dates=40)) is not None
    assert deflated_sharpe(0.5, 0.1, 100, skew=10, kurtosis=3) is None
    with pytest.raises(ValueError, match="fewer than 2"):
        overfitting_figures(noise(0, trials=1), 0)


def test_returns_of_rank_weights_by_hand():
    date = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4])
    signal = np.array([3.0, 1.0, 2.0, 5.0, 5.0, 1.0, 2.0, 1.0, 1.0, 2.0, 2.0])
    following = np.array([0.04, 0.01, 9.0, 0.1, 0.3, 0.5, 0.2, np.nan, 0.01, 0.03, 0.05])
    found = rank_weighted_returns(signal, following, date, 6)
    # one up and one down, the middle one out; equal signals; one symbol; one left; two share a side; no rows
    np.testing.assert_allclose(found, [0.03, 0.0, np.nan, np.nan, 0.03, np.nan])
