"""Scores against hand counts and scikit-learn, and the bootstrap's interval."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from stockenh.evaluation.metrics import accuracy_interval, horizon_metrics, part_metrics

NAN = float("nan")


def days(n: int, symbols: int = 1) -> np.ndarray:
    return np.repeat(np.datetime64("2020-01-01") + np.arange(n), symbols)


def scores(ret, up_prob, y_ret, **options):
    arrays = [np.asarray(values, dtype=float) for values in (ret, up_prob, y_ret)]
    return horizon_metrics(*arrays, days(len(arrays[0])), block=options.pop("block", 3), **options)


def test_six_rows_by_hand():
    found = scores(
        ret=[0.01, 0.00, 0.02, -0.01, 0.00, 0.0],
        up_prob=[0.6, 0.7, 0.5, 0.2, 0.9, 0.8],
        y_ret=[0.02, -0.01, 0.03, -0.01, 0.0, NAN],
    )
    assert found["n"] == 5
    assert found["ties"] == 1
    assert found["tie_share"] == pytest.approx(0.2)
    # Of the four rows that moved, 0.6 is right, 0.7 wrong, 0.5 means down and is wrong, 0.2 is right.
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["majority"] == pytest.approx(0.5)
    # Ups 0.6 and 0.5 against downs 0.7 and 0.2: two of four pairs are in order.
    assert found["auc"] == pytest.approx(0.5)
    # The tie counts as not up here, so its 0.9 costs -log 0.1.
    assert found["log_loss"] == pytest.approx(-np.log([0.6, 0.3, 0.5, 0.8, 0.1]).mean())
    assert found["brier"] == pytest.approx(np.square([0.4, 0.7, 0.5, 0.2, 0.9]).mean())
    assert found["mae"] == pytest.approx((0.01 + 0.01 + 0.01 + 0 + 0) / 5)


def test_majority_is_the_larger_class_whichever_it_is():
    assert scores([0] * 4, [0.5] * 4, [1, -1, -1, -1])["majority"] == pytest.approx(0.75)
    assert scores([0] * 4, [0.5] * 4, [1, 1, 1, -1])["majority"] == pytest.approx(0.75)


def test_probabilities_of_0_and_1_cost_a_finite_log_loss():
    found = scores([0, 0], [0.0, 1.0], [0.1, -0.1])
    assert found["log_loss"] == pytest.approx(-np.log(1e-7), rel=1e-6)
    assert found["brier"] == pytest.approx(1.0)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), n=st.integers(10, 200), levels=st.integers(1, 30))
def test_figures_equal_scikit_learn(seed, n, levels):
    rng = np.random.default_rng(seed)
    y_ret = np.concatenate([[-0.01, 0.01], rng.normal(size=n).round(1)])
    up_prob, ret = rng.integers(0, levels + 1, n + 2) / levels, rng.normal(size=n + 2)
    found = scores(ret, up_prob, y_ret, resamples=0)
    moved, up = y_ret != 0, y_ret > 0
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(up[moved], up_prob[moved] > 0.5))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(up[moved], up_prob[moved]))
    assert found["log_loss"] == pytest.approx(sk.log_loss(up, np.clip(up_prob, 1e-7, 1 - 1e-7)))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(up, up_prob))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y_ret, ret))


@pytest.mark.parametrize("y_ret", [[], [NAN, NAN]])
def test_without_labels_all_figures_but_counts_are_none(y_ret):
    found = scores([0.0] * len(y_ret), [0.5] * len(y_ret), y_ret)
    assert (found.pop("n"), found.pop("ties")) == (0, 0)
    assert set(found.values()) == {None}


def test_ties_alone_leave_accuracy_majority_auc_and_interval_undefined():
    found = scores([0.1] * 8, [0.6] * 8, [0.0] * 8)
    undefined = {key for key, value in found.items() if value is None}
    assert undefined == {"accuracy", "accuracy_low", "accuracy_high", "majority", "auc"}
    assert found["tie_share"] == 1


def test_one_class_alone_leaves_auc_undefined():
    found = scores([0, 0], [0.6, 0.4], [0.1, 0.2])
    assert found["auc"] is None
    assert (found["accuracy"], found["majority"]) == (0.5, 1.0)


def test_nan_forecasts_give_none_and_stay_valid_json():
    found = scores([NAN] * 8, [NAN] * 8, [0.1, -0.1] * 4)
    spoilt = ("accuracy", "accuracy_low", "log_loss", "brier", "auc", "mae")
    assert {found[key] for key in spoilt} == {None}
    json.dumps(found, allow_nan=False)


def test_part_metrics_scores_each_column_under_its_horizon():
    y_ret = np.array([[0.1, -0.1], [0.1, -0.1], [-0.1, 0.1], [0.1, NAN]], dtype=np.float32)
    ret, up_prob = np.zeros_like(y_ret), np.full_like(y_ret, 0.9)
    found = part_metrics(ret, up_prob, y_ret, days(4), [3, 10])
    assert list(found) == ["h3", "h10"]
    assert (found["h3"]["n"], found["h3"]["accuracy"]) == (4, 0.75)
    assert (found["h10"]["n"], found["h10"]["accuracy"]) == (3, pytest.approx(1 / 3))
    with pytest.raises(ValueError, match="zip"):
        part_metrics(ret, up_prob, y_ret, days(4), [3, 5, 10])


def test_interval_needs_two_blocks_of_dates_and_resamples():
    up_prob, y_ret = np.full(20, 0.9), np.tile([0.1, -0.1], 10)
    assert accuracy_interval(up_prob, y_ret, days(20), block=11) == (None, None)
    assert accuracy_interval(up_prob, y_ret, days(20), block=5, resamples=0) == (None, None)
    low, high = accuracy_interval(up_prob, y_ret, days(20), block=5)
    assert low < 0.5 < high


def test_interval_is_a_point_where_every_date_scores_the_same():
    y_ret = np.tile([0.1, 0.1, 0.1, -0.1], 50)
    assert accuracy_interval(np.full(200, 0.9), y_ret, days(50, symbols=4), block=10) == (0.75, 0.75)


def test_interval_repeats_with_the_seed_and_does_not_depend_on_row_order():
    rng = np.random.default_rng(0)
    up_prob, y_ret, dates = rng.random(400), rng.normal(size=400), days(100, symbols=4)
    first = accuracy_interval(up_prob, y_ret, dates, block=10, seed=1)
    order = rng.permutation(400)
    assert accuracy_interval(up_prob[order], y_ret[order], dates[order], block=10, seed=1) == first
    assert accuracy_interval(up_prob, y_ret, dates, block=10, seed=2) != first


def test_interval_of_independent_rows_has_the_binomial_width():
    rng = np.random.default_rng(0)
    y_ret = np.where(rng.random(1000) < 0.55, 0.1, -0.1)
    low, high = accuracy_interval(np.full(1000, 0.9), y_ret, days(1000), block=1, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.55 * 0.45 / 1000), rel=0.08)


def test_runs_of_equal_labels_and_symbols_that_move_together_widen_the_interval():
    rng = np.random.default_rng(0)
    runs = np.repeat(np.where(rng.random(200) < 0.5, 0.1, -0.1), 10)
    up_prob = np.full(2000, 0.9)

    def width(dates: np.ndarray, block: int) -> float:
        low, high = accuracy_interval(up_prob, runs, dates, block=block)
        return high - low

    assert width(days(2000), 30) > 2.2 * width(days(2000), 1)
    assert width(days(200, symbols=10), 1) > 2.2 * width(days(2000), 1)


def test_a_part_of_30000_rows_is_scored_within_an_epochs_patience():
    rng = np.random.default_rng(0)
    y_ret, up_prob = rng.normal(size=(10_000, 3)), rng.random((10_000, 3))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        part_metrics(y_ret, up_prob, y_ret, days(2500, symbols=4), [3, 5, 10], resamples=0)
        middle = time.process_time()
        part_metrics(y_ret, up_prob, y_ret, days(2500, symbols=4), [3, 5, 10])
        seconds.append((middle - start, time.process_time() - middle))
    plain, with_intervals = np.min(seconds, axis=0)
    assert plain < 0.1
    assert with_intervals < 1.0
