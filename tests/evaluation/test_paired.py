"""Intervals over seeds, by hand."""

from __future__ import annotations

import pytest

from stockenh.evaluation.bootstrap import Interval, seeds_to_tell


def test_three_values_have_the_interval_of_student_with_two_degrees_of_freedom():
    # mean 2, s = 1, t(0.975, 2) = 4.302653: 4.302653 / sqrt(3) = 2.484138
    found = Interval.of([1.0, 2.0, 3.0])
    assert found is not None and found.n == 3
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-6)


def test_two_values_need_a_factor_of_almost_thirteen():
    # s = sqrt(0.5), half = 12.706205 x sqrt(0.5) / sqrt(2) = 6.353102
    found = Interval.of([0.0, 1.0])
    assert found is not None and found.high == pytest.approx(0.5 + 6.353102, abs=1e-6)


def test_one_value_has_no_interval_and_none_nothing():
    assert Interval.of([0.3]) == Interval(0.3, None, None, 1)
    assert Interval.of([]) is None


def test_seeds_that_would_tell():
    # mean 2, s = 1, bound 1: t(n - 1) / sqrt(n) < 1 first at n = 7 (6: 2.5706 / 2.4495; 7: 2.4469 / 2.6458)
    assert seeds_to_tell([1.0, 2.0, 3.0], 1.0) == 7
    assert seeds_to_tell([1.0, 2.0, 3.0], 2.0) is None
    assert seeds_to_tell([1.0], 0.0) is None
