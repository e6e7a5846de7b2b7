"""Calibration: what is fitted, what it undoes, and what an untrusted file may not hold."""

import json

import numpy as np
import pytest

from stockenh.errors import RunFolderError
from stockenh.evaluation.metrics import calibration_metrics
from stockenh.inference.calibration import (
    Calibration,
    expected_calibration_error,
    read_calibrations,
    reliability,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def market(n=40_000, seed=0):
    """True logits (n, 1) and returns (n, 1) whose direction follows them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.2, 0.8, (n, 1))
    up = rng.random((n, 1)) < sigmoid(logits)
    return logits, np.where(up, 0.01, -0.01)


def test_the_identity_gives_the_model_s_own_probability_and_others_by_hand():
    logits = np.array([[-3.0, 0.0], [0.4, 800.0]])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(Calibration.identity(2).apply(logits), sigmoid(logits), rtol=1e-12)
    assert Calibration((2.0,), (0.5,)).apply(np.array([[3.0]]))[0, 0] == pytest.approx(sigmoid(3 / 2 + 0.5))


@pytest.mark.parametrize(
    ("temperature", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.4, 0.0), (1.0, -1.1), (2.0, 0.7)]
)
def test_scale_and_shift_of_the_logits_are_found(temperature, shift):
    logits, y_ret = market()
    said = (logits - shift) * temperature
    found = Calibration.fit(said, y_ret)
    assert found.temperature[0] == pytest.approx(temperature, rel=0.08)
    assert found.bias[0] == pytest.approx(shift, abs=0.06)
    np.testing.assert_allclose(found.apply(said), sigmoid(logits), atol=0.03)


def test_what_focal_alpha_does_to_the_logits_no_temperature_undoes():
    # alpha = 0.25 weighs up 1 : 3, so that the best logits are the true ones less log 3
    logits, y_ret = market()
    said = logits - np.log(3)
    best = min(np.mean(np.logaddexp(0, -np.sign(y_ret) * said / t)) for t in np.geomspace(0.05, 20, 200))
    found = Calibration.fit(said, y_ret)
    assert found.bias[0] == pytest.approx(np.log(3), abs=0.06)
    scores = calibration_metrics(sigmoid(said), found.apply(said), y_ret, [3])["h3"]
    assert scores["log_loss_calibrated"] < best - 0.03
    assert scores["ece"] > 0.2 and scores["ece_calibrated"] < 0.015


def test_logits_that_point_the_wrong_way_are_flattened_not_turned():
    logits, y_ret = market()
    found = Calibration.fit(-logits, y_ret)
    assert found.temperature == (20.0,)
    calibrated = found.apply(-logits)[:, 0]
    assert (np.diff(calibrated[np.argsort(-logits[:, 0])]) >= 0).all()
    assert calibrated.mean() == pytest.approx((y_ret > 0).mean(), abs=0.005)


def test_ties_and_missing_labels_do_not_count():
    logits, y_ret = market(2000)
    more = np.concatenate([y_ret, np.zeros((500, 1)), np.full((500, 1), np.nan)])
    padded = np.concatenate([logits, np.full((1000, 1), 5.0)])
    assert Calibration.fit(padded, more) == Calibration.fit(logits, y_ret)
    assert expected_calibration_error(sigmoid(padded[:, 0]), more[:, 0]) == pytest.approx(
        expected_calibration_error(sigmoid(logits[:, 0]), y_ret[:, 0])
    )


@pytest.mark.parametrize(
    ("logits", "y_ret"),
    [
        (np.ones((100, 1)), np.ones((100, 1))),  # one class
        (np.zeros((29, 1)), np.tile([0.1, -0.1], 15)[:29, None]),  # too few
        (np.full((100, 1), np.nan), np.tile([0.1, -0.1], 50)[:, None]),
        (np.ones((100, 1)), np.full((100, 1), np.nan)),
        (np.empty((0, 1)), np.empty((0, 1))),
    ],
)
def test_where_nothing_can_be_fitted_it_is_the_identity(logits, y_ret):
    assert Calibration.fit(logits, y_ret) == Calibration.identity(1)


def test_a_constant_forecast_becomes_the_share_of_up_and_separable_ones_stay_finite():
    y_ret = np.where(np.arange(100) < 70, 0.1, -0.1)[:, None]
    assert Calibration.fit(np.zeros((100, 1)), y_ret).apply(np.zeros((1, 1)))[0, 0] == pytest.approx(0.7)
    sure = Calibration.fit(10 * np.sign(y_ret), y_ret)
    assert np.isfinite(sure.apply(np.array([[1e30]]))).all() and sure.temperature[0] >= 0.05


def test_reliability_by_hand():
    p = np.array([0.1, 0.3, 0.9, 0.9, 0.5, 0.5])
    y = np.array([-1.0, 1.0, 1.0, 1.0, 0.0, np.nan])
    forecast, share, count = reliability(p, y)
    np.testing.assert_allclose(forecast, [0.1, 0.3, 0.9])
    np.testing.assert_allclose(share, [0, 1, 1])
    # equal forecasts share a bin; the tie and the row without label are out
    assert count.tolist() == [1, 1, 2]
    assert expected_calibration_error(p, y) == pytest.approx((0.1 + 0.7 + 0.1 + 0.1) / 4)
    p = 0.5 + 1e-4 * np.random.default_rng(0).normal(size=1000)  # however close, bins are of equal size
    assert reliability(p, np.where(p > 0.5, 1.0, -1.0))[2].tolist() == [100] * 10


def test_without_rows_it_is_null():
    assert expected_calibration_error(np.array([0.5]), np.array([0.0])) is None
    scores = calibration_metrics(np.ones((1, 1)), np.ones((1, 1)), np.full((1, 1), np.nan), [5])
    assert set(scores["h5"].values()) == {None}


def test_read_back_from_json_it_is_the_same():
    made = {"raw": Calibration((1.3, 0.7), (0.1, -0.2)), "ema": Calibration.identity(2)}
    text = json.dumps({name: calibration.to_dict() for name, calibration in made.items()})
    assert read_calibrations(json.loads(text), 2) == made


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"raw": []},
        {"raw": {"temperature": [1.0, 1.0]}},
        {"raw": {"temperature": [1.0], "bias": [0.0, 0.0]}},
        {"raw": {"temperature": [1.0, -1.0], "bias": [0.0, 0.0]}},
        {"raw": {"temperature": [1.0, float("nan")], "bias": [0.0, 0.0]}},
        {"raw": {"temperature": [1.0, 1.0], "bias": [0.0, 1e9]}},
        {"raw": {"temperature": [1.0, "1"], "bias": [0.0, 0.0]}},
        {"raw": {"temperature": [1.0, 1.0], "bias": [0.0, 0.0], "more": 1}},
    ],
)
def test_untrusted_numbers_are_checked(values):
    with pytest.raises(RunFolderError, match=r"calibration\.json"):
        read_calibrations(values, 2)
