"""Shuffled labels keep what they must, and only a steady excess over the majority class is a leak."""

from __future__ import annotations

import numpy as np
import pytest

from stockenh.evaluation.leakage_training import (
    check_random,
    check_shuffled,
    random_against_purged,
    shuffled_labels,
    up_probability,
)

MAJORITY = {"h3": 0.52}


def test_labels_are_shuffled_in_blocks_of_one_symbol():
    symbol = np.repeat([0, 1], 20)
    asof = np.tile(np.arange(20), 2).astype("M8[s]")
    labels = np.arange(40.0)[:, None]
    found = shuffled_labels(symbol, asof, labels, block=5, seed=0)[:, 0]
    assert sorted(found) == list(range(40)) and (found != np.arange(40)).mean() > 0.5
    blocks = found.reshape(8, 5)
    assert (np.diff(blocks, axis=1) == 1).all() and (blocks[:, 0] % 5 == 0).all()
    order = np.random.default_rng(1).permutation(40)
    mixed = shuffled_labels(symbol[order], asof[order], labels[order], block=5, seed=0)
    np.testing.assert_array_equal(mixed[:, 0], found[order])


@pytest.mark.parametrize(
    ("scores", "finding"),
    [
        ([0.50, 0.51, 0.52, 0.52], "pass"),  # below
        ([0.60, 0.45, 0.58, 0.50], "pass"),  # some far above, by the luck of what was drawn
        ([0.52, 0.52, 0.52, 0.52], "pass"),  # all say the majority class
        ([0.61, 0.60, 0.62, 0.61], "FAIL"),
    ],
)
def test_only_a_steady_excess_is_a_leak(scores, finding):
    found = check_shuffled({"own model": {"h3": scores}}, MAJORITY)
    assert found.finding == finding
    assert found.figures["own model"]["h3"]["accuracy"] == pytest.approx(np.mean(scores))


def test_without_a_test_part_there_is_nothing_to_learn():
    assert check_shuffled({}, {}).finding == "n/a"
    assert check_random({}, run_is_random=False).finding == "n/a"


def test_labels_of_one_class_teach_nothing():
    x = np.arange(6.0)[:, None]
    assert up_probability("logistic regression", x, np.ones(6), x, 0) is None
    taught = np.array([-1.0, -1, np.nan, 0, 1, 1])
    found = up_probability("logistic regression", x, taught, x, 0)
    assert found is not None and (np.diff(found) > 0).all() and found[0] < 0.5 < found[-1]


def test_a_random_split_of_noise_looks_like_skill_and_a_purged_one_does_not():
    rng = np.random.default_rng(0)
    n, horizon = 1500, 20
    walk = rng.normal(size=n + horizon).cumsum()
    returns = (walk[horizon:] - walk[:n]).astype(np.float32)[:, None]
    context = rng.normal(size=(n, 3)).cumsum(0)
    rows = {"train": np.arange(1000), "val": np.arange(1020, 1200), "test": np.arange(1220, n)}
    asof = np.arange(n).astype("M8[D]").astype("M8[s]")
    found = random_against_purged(context, returns, asof, rows, (horizon,), seed=0)
    of = found["gradient boosting"]["h20"]
    assert of["random"]["accuracy"] > 0.7 > of["random"]["majority"] + 0.1
    assert of["purged"]["accuracy"] < of["purged"]["majority"]
    assert of["random"]["n"] == of["purged"]["n"] == 280
    told = check_random(found, run_is_random=False)
    assert told.finding == "info" and "gradient boosting at 20 bars" in told.measured
    assert check_random(found, run_is_random=True).finding == "FAIL"
