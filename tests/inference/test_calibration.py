"""Calibration: what is fitted, what it undoes, and what an untrusted file may not hold."""

import json

import numpy as np
import pytest

from stockenh.errors import RunFolderError
from stockenh.evaluation.metrics import calibration_metrics
from stockenh.inference.calibration import (
    Calibration,
    expected_calibration_error,
    held_out_log_losses,
    read_calibrations,
    reliability,
)
from stockenh.training.losses.huber_bce import HuberBCE


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def market(dates=5000, symbols=8, seed=0):
    """True logits (n, 1), returns (n, 1) whose direction follows them, and dates (n,)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.2, 0.8, (dates * symbols, 1))
    up = rng.random((dates * symbols, 1)) < sigmoid(logits)
    return logits, np.where(up, 0.01, -0.01), days(dates, symbols)


def days(dates, symbols=1):
    return np.repeat(np.datetime64("2020-01-01") + np.arange(dates), symbols).astype("datetime64[s]")


def fit(logits, y_ret, asof, shifted=True, horizons=(3,)):
    return Calibration.fit(logits, y_ret, asof, horizons, shifted)


def test_the_identity_gives_the_model_s_own_probability_and_others_by_hand():
    logits = np.array([[-3.0, 0.0], [0.4, 800.0]])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(Calibration.identity(2).apply(logits), sigmoid(logits), rtol=1e-12)
    assert Calibration((2.0,), (0.5,)).apply(np.array([[3.0]]))[0, 0] == pytest.approx(sigmoid(3 / 2 + 0.5))


@pytest.mark.parametrize(
    ("temperature", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.4, 0.0), (1.0, -1.1), (2.0, 0.7)]
)
def test_scale_and_shift_of_the_logits_are_found(temperature, shift):
    logits, y_ret, asof = market()
    said = (logits - shift) * temperature
    found = fit(said, y_ret, asof)
    assert found.temperature[0] == pytest.approx(temperature, rel=0.08)
    assert found.bias[0] == pytest.approx(shift, abs=0.06)
    np.testing.assert_allclose(found.apply(said), sigmoid(logits), atol=0.03)


def test_what_focal_alpha_does_to_the_logits_no_temperature_undoes():
    # alpha = 0.25 weighs up 1 : 3, so that the best logits are the true ones less log 3
    logits, y_ret, asof = market()
    said = logits - np.log(3)
    best = min(np.mean(np.logaddexp(0, -np.sign(y_ret) * said / t)) for t in np.geomspace(0.05, 20, 200))
    found = fit(said, y_ret, asof)
    assert found.bias[0] == pytest.approx(np.log(3), abs=0.06)
    scores = calibration_metrics(sigmoid(said), found.apply(said), y_ret, [3])["h3"]
    assert scores["log_loss_calibrated"] < best - 0.03
    assert scores["ece"] > 0.2 and scores["ece_calibrated"] < 0.015


def test_a_base_rate_of_validation_is_no_bias_unless_the_loss_shifts():
    logits, _, asof = market()
    y_ret = np.where(np.random.default_rng(1).random(logits.shape) < sigmoid(logits + 1.0), 0.01, -0.01)
    assert fit(logits, y_ret, asof, shifted=False).bias == (0.0,)
    assert fit(logits, y_ret, asof, shifted=True).bias[0] == pytest.approx(1.0, abs=0.06)


def test_logits_that_point_the_wrong_way_are_flattened_not_turned():
    logits, y_ret, asof = market()
    found = fit(-logits, y_ret, asof)
    assert found.temperature[0] > 15
    calibrated = found.apply(-logits)[:, 0]
    assert (np.diff(calibrated[np.argsort(-logits[:, 0])]) >= 0).all()
    assert calibrated.mean() == pytest.approx((y_ret > 0).mean(), abs=0.01)


@pytest.mark.parametrize("horizon", [1, 10, 40])
def test_fewer_independent_dates_pull_towards_the_identity(horizon):
    logits, y_ret, asof = market(400)
    found = fit(2.5 * logits - 1.0, y_ret, asof, horizons=(horizon,))
    free = Calibration.unshrunk(2.5 * logits - 1.0, y_ret)
    # the penalty weighs as much as one of dates / horizon observations
    z, up = (2.5 * logits - 1.0)[:, 0], y_ret[:, 0] > 0

    def penalised(calibration):
        t, b = calibration.temperature[0], calibration.bias[0]
        p = sigmoid(z / t + b)
        return -np.log(np.where(up, p, 1 - p)).mean() + (np.log(t) ** 2 + b**2) / 2 / (400 / horizon)

    assert 1 < found.temperature[0] < free.temperature[0] and found.bias[0] > 0
    t, b = found.temperature[0], found.bias[0]
    for near in ((t * 1.01, b), (t / 1.01, b), (t, b + 0.01), (t, b - 0.01)):
        assert penalised(found) < penalised(Calibration((near[0],), (near[1],)))


def test_the_symbols_of_a_date_are_no_further_evidence():
    logits, y_ret, asof = market(300, 1)
    one = fit(3 * logits, y_ret, asof)
    five = fit(np.repeat(3 * logits, 5, 0), np.repeat(y_ret, 5, 0), np.repeat(asof, 5))
    assert one.temperature[0] > 1.3 and one.temperature == pytest.approx(five.temperature, rel=1e-4)


def test_what_holds_in_one_regime_and_not_in_the_next_is_not_kept():
    """The shift of each fifth of the dates is another: none of them helps the others."""
    logits, _, asof = market(500, 4)
    shift = np.repeat([1.5, -1.5, 1.0, -1.0, 0.0], 400)[:, None]
    y_ret = np.where(np.random.default_rng(2).random(logits.shape) < sigmoid(logits + shift), 0.01, -0.01)
    assert fit(logits, y_ret, asof, horizons=(10,)).bias == (0.0,)


def test_held_out_log_losses_are_those_of_all_rows_with_a_direction_by_hand():
    """Four dates are too few to hold any out."""
    logits = np.array([[0.5, 9.0], [-1.0, 2.0], [2.0, -0.3], [7.0, 0.0]])
    y_ret = np.array([[0.01, np.nan], [0.02, -0.01], [-0.01, 0.03], [0.0, np.nan]])
    losses = -np.log(sigmoid(np.array([0.5, -1.0, -2.0, -2.0, -0.3])))
    found = held_out_log_losses(logits, y_ret, days(4), (3, 5))
    assert found == pytest.approx((losses.mean(), losses.mean()))
    assert held_out_log_losses(logits, np.full((4, 2), np.nan), days(4), (3, 5)) == (0, 0)


def test_the_labels_of_a_block_do_not_calibrate_it():
    """Up in three quarters of the dates, then down: a shift fitted on all rows would lower their log loss."""
    y_ret = np.where(np.arange(400) < 300, 0.01, -0.01)[:, None]
    before, after = held_out_log_losses(np.zeros((400, 1)), y_ret, days(400), (3,))
    assert before == pytest.approx(np.log(2)) and after == pytest.approx(before)
    assert Calibration.unshrunk(np.zeros((400, 1)), y_ret).bias[0] == pytest.approx(np.log(3), abs=1e-3)


@pytest.mark.parametrize("shift", [-1.1, 0.0, 2.0])
def test_held_out_log_losses_undo_a_shift(shift):
    logits, y_ret, asof = market(400)
    (plain, _), found = (held_out_log_losses(logits + s, y_ret, asof, (3,)) for s in (0.0, shift))
    assert found[0] >= plain and found[1] == pytest.approx(plain, abs=0.002)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shifted", [False, True])
def test_on_later_dates_it_costs_next_to_nothing_where_there_is_nothing_to_correct(seed, shifted):
    """Overlapping labels of symbols that move together, which the logits know nothing of."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.01, (949, 4)) + rng.normal(0, 0.01, (949, 1))
    moves = np.cumsum(steps, 0)
    y_ret = (moves[10:] - moves[:-10])[:, :, None].reshape(-1, 1)
    logits, asof = rng.normal(0.1, 0.1, y_ret.shape), days(939, 4)
    val, test = slice(0, 4 * 460), slice(4 * 470, None)
    found = fit(logits[val], y_ret[val], asof[val], shifted, (10,))
    raw, calibrated = (
        np.logaddexp(0, -np.sign(y_ret[test]) * z).mean()
        for z in (logits[test], logits[test] / found.temperature[0] + found.bias[0])
    )
    assert calibrated < raw + 0.015


def test_ties_and_missing_labels_do_not_count():
    logits, y_ret, asof = market(300)
    more = np.concatenate([y_ret, np.zeros((500, 1)), np.full((500, 1), np.nan)])
    padded, dates = np.concatenate([logits, np.full((1000, 1), 5.0)]), np.concatenate([asof, asof[:1000]])
    assert fit(padded, more, dates) == fit(logits, y_ret, asof)
    assert Calibration.unshrunk(padded, more) == Calibration.unshrunk(logits, y_ret)
    assert expected_calibration_error(sigmoid(padded[:, 0]), more[:, 0]) == pytest.approx(
        expected_calibration_error(sigmoid(logits[:, 0]), y_ret[:, 0])
    )


@pytest.mark.parametrize(
    ("logits", "y_ret", "horizon"),
    [
        (np.ones((100, 1)), np.ones((100, 1)), 3),  # one class
        (np.zeros((29, 1)), np.tile([0.1, -0.1], 15)[:29, None], 3),  # too few
        (np.full((100, 1), np.nan), np.tile([0.1, -0.1], 50)[:, None], 3),
        (np.ones((100, 1)), np.full((100, 1), np.nan), 3),
        (np.ones((100, 1)), np.where(np.arange(100) % 4 > 0, 0.1, -0.1)[:, None], 60),  # not two blocks
        (np.ones((100, 1)), np.where(np.arange(100) % 4 > 0, 0.1, -0.1)[:, None], 50),  # all embargo
        (np.empty((0, 1)), np.empty((0, 1)), 3),
    ],
)
def test_where_nothing_can_be_fitted_it_is_the_identity(logits, y_ret, horizon):
    assert fit(logits, y_ret, days(len(logits)), horizons=(horizon,)) == Calibration.identity(1)


def test_separable_logits_stay_finite():
    y_ret = np.where(np.arange(100) % 10 < 7, 0.1, -0.1)[:, None]
    for sure in (
        fit(10 * np.sign(y_ret), y_ret, days(100)),
        Calibration.unshrunk(10 * np.sign(y_ret), y_ret),
    ):
        assert np.isfinite(sure.apply(np.array([[1e30]]))).all() and sure.temperature[0] >= 0.05
    constant = Calibration.unshrunk(np.zeros((100, 1)), y_ret)
    assert constant.apply(np.zeros((1, 1)))[0, 0] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("loss", "shifts"),
    [
        (HuberBCE(), False),
        (HuberBCE(gamma=2.0, smoothing=0.1), False),
        (HuberBCE(alpha=0.5), False),
        (HuberBCE(alpha=0.25), True),
        (HuberBCE(gamma=2.0, alpha="auto"), True),
    ],
)
def test_a_loss_says_whether_it_shifts_probabilities(loss, shifts):
    assert loss.shifts_probabilities is shifts
    assert loss.fitted([0.6, 0.6, 0.6]).shifts_probabilities is shifts


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
