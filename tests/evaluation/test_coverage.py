"""Selective accuracy by hand, with ties, and with an uncertainty that knows something."""

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import BlockBootstrap
from stockenh.evaluation.scores import coverage_curve


def test_four_rows_by_hand():
    up_prob = np.array([0.9, 0.8, 0.4, 0.6, 0.7])
    uncertainty = np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    y_ret = np.array([0.1, -0.1, -0.1, 0.1, 0.0])  # the last is a tie, however sure
    half, all_rows = coverage_curve(up_prob, uncertainty, y_ret, np.arange(5), 5, None, (0.5, 1.0))
    assert (half["coverage"], half["n"], half["accuracy"], half["majority"]) == (0.5, 2, 0.5, 0.5)
    assert (all_rows["coverage"], all_rows["n"], all_rows["accuracy"]) == (1, 4, 0.75)
    assert all_rows["low"] is None and all_rows["above_low"] is None


def test_equal_uncertainty_comes_in_together():
    found = coverage_curve(
        np.full(10, 0.9), np.full(10, 0.1), np.full(10, 0.1), np.arange(10), 10, None, (0.1,)
    )
    assert found[0]["coverage"] == 1 and found[0]["n"] == 10


def test_ties_alone_give_no_curve():
    assert coverage_curve(np.ones(4), np.ones(4), np.zeros(4), np.arange(4), 4, None) == []


def test_where_the_least_uncertain_are_right_the_curve_falls_and_lies_above_their_majority():
    rng = np.random.default_rng(0)
    uncertainty, y_ret = rng.random(2000), rng.normal(size=2000)
    right = rng.random(2000) > uncertainty / 2
    up_prob = np.where(right == (y_ret > 0), 0.9, 0.1)
    draws = BlockBootstrap.draw(500, 5, 300, 0)
    found = coverage_curve(up_prob, uncertainty, y_ret, np.repeat(np.arange(500), 4), 500, draws)
    accuracy = [point["accuracy"] for point in found]
    assert accuracy[0] > 0.93 and accuracy[-1] == pytest.approx(0.75, abs=0.03)
    assert accuracy == sorted(accuracy, reverse=True)
    assert all(point["low"] < point["accuracy"] < point["high"] for point in found)
    assert found[0]["above_low"] > 0.3
