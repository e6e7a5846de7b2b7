"""Inputs that hold a label, and statistics that were fitted on later rows."""

import math

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from stockenh.evaluation.leakage_features import (
    check_calibration,
    check_correlations,
    check_fitted,
    check_stored_context,
    correlation_limits,
    correlations,
    distance,
    statistics,
)

RNG = np.random.default_rng(0)
DATES = np.arange("2020-01-01", "2024-01-01", dtype="M8[D]").astype("M8[s]")


def test_correlations_are_spearmans_and_the_gini_of_direction():
    x = RNG.normal(size=(50, 3)).round(1)
    y = (x @ [[1.0], [0], [-1]] + RNG.normal(size=(50, 1))).round(1)
    y[:5] = np.nan
    found = correlations(x, y)
    for column in range(3):
        assert found.rank[column, 0] == pytest.approx(spearmanr(x[5:, column], y[5:, 0]).statistic)
    # up are 3 and 1, down are 0 and 2: of four pairs three are in order, one is not
    (gini,) = correlations(np.array([[3.0], [1], [0], [2]]), np.array([[0.1], [0.2], [-0.1], [-0.2]])).gini
    assert gini.tolist() == [0.5]


def test_a_constant_column_and_labels_of_one_class_have_none():
    found = correlations(np.column_stack([np.ones(9), np.arange(9)]), np.arange(1.0, 10)[:, None])
    assert found.rank[:, 0].tolist() == [0, pytest.approx(1)] and not found.gini.any()


def test_a_limit_is_what_is_plausible_or_on_little_data_what_chance_gives():
    y = RNG.normal(size=(len(DATES), 2))
    small = correlation_limits(0.3, y[:200], DATES[:200], (1, 10), tests=87)
    z = norm.isf(0.005 / 87)
    assert small == pytest.approx([0.3, math.tanh(z / math.sqrt(200 / 10 - 3))])
    assert correlation_limits(0.3, y, DATES, (1, 5), tests=87).tolist() == [0.3, 0.3]
    assert correlation_limits(0.3, y[:30], DATES[:30], (1, 10), tests=87)[1] == 0.99
    # more symbols on the same dates are no more observations
    four = correlation_limits(0.3, np.tile(y[:200], (4, 1)), np.tile(DATES[:200], 4), (1, 10), tests=87)
    assert (small == four).all()


def test_where_the_best_forecast_is_known_an_input_may_have_as_much():
    y = RNG.normal(size=(len(DATES), 1))
    best = y + RNG.normal(size=y.shape)
    (limit,) = correlation_limits(0.3, y, DATES, (1,), tests=87, best_prob=best)
    own = correlations(best, y).strongest.max()
    assert own > 0.5 and own < limit < own + 0.1


@pytest.mark.parametrize("size", [40, 1000])
@pytest.mark.parametrize("leak", ["return", "direction"])
def test_a_label_among_the_inputs_is_caught_however_few_the_rows(size, leak):
    y = RNG.normal(size=(size, 1))
    inputs = RNG.normal(size=(size, 20))
    inputs[:, 4] = y[:, 0] if leak == "return" else y[:, 0] > 0
    names = [f"x{i}" for i in range(20)]
    limit = correlation_limits(0.3, y, DATES[:size], (10,), tests=20)
    found = check_correlations(names, correlations(inputs, y), limit, (10,))
    assert found.finding == "FAIL" and found.figures["beyond"] == ["x4"] and "x4 (1.00" in found.measured
    inputs[:, 4] = 0
    assert check_correlations(names, correlations(inputs, y), limit, (10,)).finding == "pass"


def test_persistent_inputs_and_overlapping_labels_give_no_false_alarm():
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        walk = rng.normal(size=310).cumsum()
        y = (walk[10:] - walk[:-10])[:, None]
        inputs = rng.normal(size=(300, 40)).cumsum(0)
        limit = correlation_limits(0.3, y, DATES[:300], (10,), tests=40)
        found = check_correlations([str(i) for i in range(40)], correlations(inputs, y), limit, (10,))
        alarms += found.finding == "FAIL"
    assert alarms == 0


CONTEXT = (RNG.normal(size=(200, 12)) + np.linspace(0, 3, 200)[:, None]).astype(np.float32)
RETURNS = RNG.normal(0, 0.02, (200, 2)).astype(np.float32)
ROWS = {"train": np.arange(120), "val": np.arange(125, 160), "test": np.arange(165, 190)}
LABELLED = np.where(np.arange(200)[:, None] < 195, RETURNS, np.nan).astype(np.float32)


def test_the_numbers_are_those_of_the_definition():
    found = statistics(np.array([[1.0, 5], [3, 5]]), np.array([[0.1, np.nan], [-0.3, 0.0]]))
    assert found["context_mean"].tolist() == [2, 5] and found["context_std"].tolist() == [1, 1]
    np.testing.assert_allclose(found["return_std"], [0.2, 1])
    assert found["up_share"].tolist() == [0.5, 0]


@pytest.mark.parametrize(
    ("rows", "whose"),
    [
        (np.arange(200), "those of all rows"),
        (np.arange(195), "those of all labelled rows"),
        (np.concatenate(list(ROWS.values())), "those of all parts together"),
        (np.concatenate([ROWS["train"], ROWS["test"]]), "those of train and test"),
        (np.arange(77), "those of no part of the data"),
    ],
)
def test_statistics_of_other_rows_are_caught_and_named(rows, whose):
    found = check_fitted(CONTEXT, LABELLED, ROWS, statistics(CONTEXT[rows], LABELLED[rows]))
    assert found.finding == "FAIL" and f"fitted.json holds {whose}" in found.measured


def test_statistics_of_the_train_rows_pass_and_stand_beside_those_of_all():
    found = check_fitted(CONTEXT, LABELLED, ROWS, statistics(CONTEXT[:120], LABELLED[:120]))
    assert found.finding == "pass" and found.figures["distance"]["the train rows"] == 0
    assert found.figures["distance"]["all labelled rows"] > 0.3


def test_a_distance_is_in_units_of_the_scale():
    one = {"context_mean": [0.0], "context_std": [2.0], "return_std": [0.1], "up_share": [0.5]}
    other = {k: np.array(v) for k, v in one.items()} | {"context_mean": np.array([1.0])}
    assert distance(one, other) == 0.5


def test_a_calibration_of_the_test_part_is_caught():
    val, test = np.full((9, 2), 0.5), np.full((9, 2), 0.6)
    assert check_calibration(val + 1e-5, [test, val], [test]).finding == "pass"
    assert "that of the test part" in check_calibration(test, [val], [test]).measured
    assert "that of no held-out part" in check_calibration(test + 0.1, [val], []).measured


@pytest.mark.parametrize("scaler", ["standard", "range"])
@pytest.mark.parametrize(("fitted_on", "finding"), [(200, "FAIL"), (120, "pass")])
def test_a_file_scaled_on_all_rows_is_caught_and_one_scaled_on_train_is_not(scaler, fitted_on, finding):
    seen, names = CONTEXT[:fitted_on], [f"x{i}" for i in range(12)]
    low, size = (seen.mean(0), seen.std(0)) if scaler == "standard" else (seen.min(0), np.ptp(seen, axis=0))
    assert check_stored_context((CONTEXT - low) / size, ROWS["train"], names).finding == finding
    assert check_stored_context(CONTEXT, ROWS["train"], names).finding == "pass"
