"""The chain, its filter and the sign of its sums, against hand counts, enumeration and simulation."""

from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from stockenh.data.sources.synthetic import filtered, stationary, up_probability, walk

TWO = np.array([[0.9, 0.1], [0.3, 0.7]])
THREE = np.array([[0.8, 0.15, 0.05], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
MEAN = np.array([-0.5, 0.1, 0.8])
DEVIATION = np.array([0.6, 1.0, 1.5])
phi = NormalDist().cdf


def test_a_chain_keeps_its_stationary_distribution():
    # 0.1 of the first go over, 0.3 of the second come back: three to one
    np.testing.assert_allclose(stationary(TWO), [0.75, 0.25], atol=1e-14)


def test_a_walk_goes_where_its_numbers_say():
    # first below 0.75: state 0; 0.95 leaves it, 0.5 stays in state 1, 0.2 goes back, 0.89 stays
    assert walk(TWO, np.array([0.7, 0.95, 0.5, 0.2, 0.89])).tolist() == [0, 1, 1, 0, 0]
    assert walk(TWO, np.array([0.76])).tolist() == [1]


def test_the_filter_equals_bayes_over_all_paths():
    evidence = np.random.default_rng(3).normal(0, 2, (5, 3))
    by_hand = np.zeros((5, 3))
    for t in range(5):
        for path in product(range(3), repeat=t + 1):
            chance = stationary(THREE)[path[0]] * np.exp(evidence[0, path[0]])
            for bar in range(1, t + 1):
                chance *= THREE[path[bar - 1], path[bar]] * np.exp(evidence[bar, path[bar]])
            by_hand[t, path[-1]] += chance
    by_hand /= by_hand.sum(1, keepdims=True)
    np.testing.assert_allclose(filtered(evidence[:, None], THREE)[:, 0], by_hand, rtol=1e-10)


def test_series_are_filtered_apart_and_constants_do_not_count():
    evidence = np.random.default_rng(4).normal(0, 2, (6, 2, 3))
    both = filtered(evidence, THREE)
    for series in range(2):
        alone = filtered(evidence[:, series : series + 1] + 5000.0, THREE)[:, 0]
        np.testing.assert_allclose(both[:, series], alone, rtol=1e-9)


def test_bars_that_no_state_explains_leave_probabilities():
    neighbours = np.array([[0.9, 0.1, 0], [0.1, 0.8, 0.1], [0, 0.1, 0.9]])
    evidence = np.array([[0.0, -1e4, -1e4], [-1e4, -1e4, 0.0], [-1e4, 0.0, -1e4]])[:, None]
    beliefs = filtered(evidence, neighbours)
    assert np.isfinite(beliefs).all()
    np.testing.assert_allclose(beliefs.sum(-1), 1)


@pytest.mark.parametrize("horizon", [1, 3, 10, 60])
def test_one_state_gives_the_normal_distribution(horizon):
    up = up_probability(np.ones((1, 1)), np.array([0.3]), np.array([1.2]), [horizon])
    assert up[0, 0] == pytest.approx(phi(0.3 / 1.2 * horizon**0.5), abs=1e-10)


def test_two_bars_are_the_mixture_of_their_paths():
    mean, deviation = np.array([1.0, -0.5]), np.array([1.0, 2.0])
    by_hand = [
        sum(
            TWO[now, a] * TWO[a, b] * phi((mean[a] + mean[b]) / np.hypot(deviation[a], deviation[b]))
            for a, b in product(range(2), repeat=2)
        )
        for now in range(2)
    ]
    np.testing.assert_allclose(up_probability(TWO, mean, deviation, [2])[:, 0], by_hand, atol=1e-10)


def test_more_bars_agree_with_a_simulation():
    rng = np.random.default_rng(5)
    up = up_probability(THREE, MEAN, DEVIATION, [3, 10])
    for now in range(3):
        paths = 40_000
        state, total, seen = np.full(paths, now), np.zeros(paths), {}
        for bar in range(1, 11):
            draw = rng.random(paths)[:, None]
            state = (draw > THREE.cumsum(1)[state]).sum(1)
            total += rng.normal(MEAN[state], DEVIATION[state])
            seen[bar] = (total > 0).mean()
        # four standard errors of a share over 40,000 paths
        np.testing.assert_allclose(up[now], [seen[3], seen[10]], atol=4 * 0.5 / paths**0.5)


def test_without_a_mean_up_and_down_are_equally_likely():
    up = up_probability(THREE, np.zeros(3), DEVIATION, [1, 5, 20])
    np.testing.assert_allclose(up, 0.5, atol=1e-15)
