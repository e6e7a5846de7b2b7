"""Statistics computed again tell whose a run's are."""

from __future__ import annotations

import numpy as np
import pytest

from stockenh.evaluation.leakage_features import (
    check_calibration,
    check_fitted,
    check_stored_context,
    distance,
    statistics,
)

RNG = np.random.default_rng(0)
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
def test_statistics_of_other_rows_are_caught_and_said_whose_they_are(rows, whose):
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
    assert check_calibration(val + 1e-5, val, test).finding == "pass"
    assert "that of the test part" in check_calibration(test, val, test).measured
    assert "that of no held-out part" in check_calibration(test + 0.1, val, None).measured


@pytest.mark.parametrize("scaler", ["standard", "range"])
@pytest.mark.parametrize(("fitted_on", "finding"), [(200, "FAIL"), (120, "pass")])
def test_a_file_scaled_on_all_rows_is_caught_and_one_scaled_on_train_is_not(scaler, fitted_on, finding):
    seen = CONTEXT[:fitted_on]
    if scaler == "standard":
        scaled = (CONTEXT - seen.mean(0)) / seen.std(0)
    else:
        scaled = (CONTEXT - seen.min(0)) / np.ptp(seen, axis=0)
    found = check_stored_context(scaled, ROWS["train"], [f"x{i}" for i in range(12)])
    assert found.finding == finding
    assert check_stored_context(CONTEXT, ROWS["train"], [f"x{i}" for i in range(12)]).finding == "pass"
