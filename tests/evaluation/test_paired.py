"""Means over seeds and dates with their intervals, and many tests at once."""

import math

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import BlockBootstrap, block_variance
from stockenh.evaluation.paired import Interval, holm


def test_three_values_have_the_interval_of_student_with_two_degrees_of_freedom():
    # mean 2, s = 1, t(0.975, 2) = 4.302653: 4.302653 / sqrt(3) = 2.484138
    found = Interval.of([1.0, 2.0, 3.0])
    assert found is not None and found.n == 3
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-6)
    # t = 2 sqrt(3) with 2 degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    t = 2 * math.sqrt(3)
    assert found.p() == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert found.moved(2.0).p() == 1.0


def test_two_values_need_a_factor_of_almost_thirteen():
    # s = sqrt(0.5), half = 12.706205 x sqrt(0.5) / sqrt(2) = 6.353102
    found = Interval.of([0.0, 1.0])
    assert found is not None and found.high == pytest.approx(0.5 + 6.353102, abs=1e-6)


def test_one_value_has_no_interval_and_none_nothing():
    assert Interval.of([0.3]) == Interval(0.3) and Interval(0.3).p() is None
    assert Interval.of([]) is None


def test_values_that_are_all_the_same_leave_no_doubt():
    assert Interval.of([0.2, 0.2]).p() == 0.0


def test_the_variance_of_blocks_is_that_of_their_draws():
    series = np.cumsum(np.random.default_rng(0).normal(size=(2, 100)), axis=1)
    draws = BlockBootstrap.draw(100, 15, 20_000, seed=0)  # the last block has 10 dates
    assert block_variance(series, 15) == pytest.approx(draws.sums(series).var(axis=1), rel=0.03)


def table(seeds, dates, of_seeds, of_dates, of_both, seed=0):
    rng = np.random.default_rng(seed)
    return (
        of_seeds * rng.normal(size=(seeds, 1))
        + of_dates * rng.normal(size=dates)
        + of_both * rng.normal(size=(seeds, dates))
    ) / dates


def test_one_seed_has_an_interval_over_dates_that_is_the_bootstrap_s():
    shares = table(1, 400, 0, 1, 0)
    found = Interval.of_table(shares, 15)
    draws = BlockBootstrap.draw(400, 15, 20_000, seed=0)
    assert found.over == "dates" and found.n == 1
    assert (found.low, found.high) == pytest.approx(
        draws.interval(shares.sum(), draws.sums(shares)[0]), abs=0.005
    )


def test_too_few_dates_for_two_blocks_leave_the_seeds():
    shares = table(3, 29, 1, 1, 1)
    assert Interval.of_table(shares, 15) == Interval.of(shares.sum(axis=1).tolist())


def test_what_seeds_and_dates_share_counts_once():
    """100 seeds, so that the parts are well known: the variance is the sum of what made them."""
    found = Interval.of_table(table(100, 2000, 1.0, 10.0, 30.0), 2)
    assert found.over == "seeds and dates"
    expected = 1.0 / 100 + 100 / 2000 + 900 / (100 * 2000)
    assert found.error**2 == pytest.approx(expected, rel=0.3)
    assert found.of_dates**2 == pytest.approx(100 / 2000, rel=0.3)


def test_more_seeds_do_not_help_against_dates():
    found = Interval.of_table(table(3, 200, 0.0, 1.0, 0.0) + 0.05 / 200, 15)
    assert found.is_open_by_dates() and found.values_needed() is None
    seeds = Interval.of_table(table(3, 200, 0.2, 0.01, 0.01, seed=1) - 0.15 / 200, 15)
    assert not seeds.is_open_by_dates()
    assert 3 < seeds.values_needed() < seeds.values_needed(0.001)


def test_how_many_values_an_interval_needs():
    # mean 2, s = 1, bound 1: t(n - 1) / sqrt(n) < 1 first at n = 7 (6: 2.5706 / 2.4495; 7: 2.4469 / 2.6458)
    found = Interval.of([1.0, 2.0, 3.0])
    assert found.moved(1.0).values_needed() == 7
    assert found.moved(2.0).values_needed() is None
    assert Interval(1.0).values_needed() is None


@pytest.mark.parametrize(
    ("p_values", "adjusted", "factors"),
    [
        ([0.01], [0.01], [1]),
        ([0.04, 0.01], [0.04, 0.02], [1, 2]),
        ([0.03, 0.001, 0.04], [0.06, 0.003, 0.06], [2, 3, 2]),  # 0.04 is kept, because 0.03 is
        ([0.5, 0.9], [1.0, 1.0], [2, 2]),
        ([], [], []),
    ],
)
def test_holm(p_values, adjusted, factors):
    found = holm(p_values)
    assert [p for p, _ in found] == pytest.approx(adjusted)
    assert [factor for _, factor in found] == factors


def test_the_corrected_interval_leaves_out_what_is_rejected():
    rng = np.random.default_rng(0)
    for _ in range(200):
        some = [Interval.of((rng.normal(size=4) + rng.choice([0, 3])).tolist()) for _ in range(5)]
        for one, (p, factor) in zip(some, holm([one.p() for one in some]), strict=True):
            low, high = one.ends(0.05 / factor)
            assert (p <= 0.05) == (not low <= 0 <= high)
