"""Baselines: what each forecasts, that they are fitted on train alone, and that they find what is there."""

import sys

import numpy as np
import pytest

from stockenh.evaluation import baselines
from stockenh.evaluation.baselines import (
    FITTED,
    Known,
    LabelledPart,
    baseline_forecasts,
    concatenated,
    fitted,
    majority,
    sign_rule,
)
from stockenh.evaluation.metrics import Forecast

ALL = ("majority", "persistence", "momentum", *FITTED)


def known(rng: np.random.Generator, rows: int) -> Known:
    return Known(rng.normal(size=(rows, 6)).astype(np.float32), rng.normal(size=rows), rng.normal(size=rows))


def labelled(of: Known, y_ret: np.ndarray) -> LabelledPart:
    """A row per day."""
    days = np.datetime64("2010-01-01") + np.arange(len(y_ret))
    return LabelledPart(of, y_ret, days, 5)


def planted(rng: np.random.Generator, of: Known) -> np.ndarray:
    return 0.01 * of.context[:, 2] + rng.normal(0, 0.01, len(of.past))


def test_the_train_majority_is_forecast_for_every_row():
    found = majority(0.55, 3, 0.002)
    assert found.score.tolist() == [0.55] * 3 and found.ret.tolist() == [0.002] * 3
    assert found.signal is None


def test_a_sign_rule_goes_on_and_its_probability_is_how_often_that_held():
    before = np.array([0.1, 0.2, 0.3, -0.1, -0.2, 0.1, 0.4])
    y_ret = np.array([0.1, 0.1, -0.1, 0.1, -0.1, np.nan, 0.0])
    found = sign_rule(np.array([0.5, -0.5, 0.0]), (before, y_ret), has_return=True)
    assert found.score.tolist() == [1, 0, 0.5]
    # after a rise two of three rose, after a fall one of two; of a flat past only the share of up is known
    assert found.prob.tolist() == [pytest.approx(2 / 3), 0.5, pytest.approx(3 / 5)]
    assert found.ret.tolist() == [0.5, -0.5, 0.0]
    assert sign_rule(np.array([0.5]), None).prob is None


@pytest.mark.parametrize("name", FITTED)
def test_a_learner_finds_the_planted_feature_and_repeats_itself(name):
    rng = np.random.default_rng(0)
    train, test = known(rng, 3000), known(rng, 1000)
    y_train, y_test = planted(rng, train), planted(rng, test)
    y_train[:50], y_train[50:80] = np.nan, 0
    first, again = (fitted(name, labelled(train, y_train), None, test.context, 0, 1) for _ in range(2))
    assert (first.prob == again.prob).all()
    assert ((first.prob > 0.5) == (y_test > 0)).mean() > 0.7
    assert np.corrcoef(first.signal, y_test)[0, 1] > 0.5


def test_the_logistic_regression_is_the_penalised_optimum():
    rng = np.random.default_rng(1)
    train = known(rng, 400)
    y_ret = planted(rng, train)
    prob = fitted("logistic", labelled(train, y_ret), None, train.context, 0, 1).prob
    logit = np.log(prob / (1 - prob))
    design = np.column_stack([train.context.astype(float), np.ones(400)])
    weights = np.linalg.lstsq(design, logit, rcond=None)[0]
    # where the gradient of C * log loss + |w|^2 / 2 is 0, the intercept unpenalised
    slope = design.T @ (prob - (y_ret > 0)) + np.append(weights[:-1], 0)
    assert np.abs(slope).max() < 1e-2


def loss_of(prob: np.ndarray, y_ret: np.ndarray) -> float:
    return float(-np.log(np.where(y_ret > 0, prob, 1 - prob)).mean())


@pytest.mark.parametrize("name", FITTED)
def test_on_a_weak_signal_what_is_chosen_on_validation_beats_the_fixed_settings_and_a_constant(name):
    rng = np.random.default_rng(3)

    def part():
        x = rng.normal(size=(600, 29)).astype(np.float32)
        y_ret = 0.002 * x[:, 2] + rng.normal(0, 0.01, 600)
        return labelled(Known(x, np.zeros(600), np.zeros(600)), y_ret)

    train, val, test = part(), part(), part()
    chosen, fixed = (fitted(name, train, by, test.known.context, 0, 1).prob for by in (val, None))
    chosen, fixed = loss_of(chosen, test.y_ret), loss_of(fixed, test.y_ret)
    assert chosen < fixed and chosen < np.log(2) + 0.002


@pytest.mark.parametrize("name", FITTED)
def test_labels_of_validation_choose_and_calibrate_and_those_of_too_few_rows_do_not(name):
    rng = np.random.default_rng(4)
    train, val, test = known(rng, 1000), known(rng, 400), known(rng, 50)
    part, y_val = labelled(train, planted(rng, train)), planted(rng, val)

    def forecast(y_ret):
        by = None if y_ret is None else labelled(val, y_ret)
        return fitted(name, part, by, test.context, 0, 1).prob

    assert (forecast(y_val) != forecast(-y_val)).any()
    # the calibration makes forecasts less certain that do not hold there, and takes on no base rate
    noisy, rising = (np.where(rng.random(400) < 0.5, other, y_val) for other in (-y_val, abs(y_val)))
    assert abs(forecast(noisy) - 0.5).mean() < 0.7 * abs(forecast(y_val) - 0.5).mean()
    assert forecast(rising).mean() == pytest.approx(forecast(y_val).mean(), abs=0.05)
    few = np.where(np.arange(400) < 29, y_val, np.nan)
    for useless in (few, np.zeros(400), abs(y_val)):
        assert (forecast(useless) == forecast(None)).all()


def test_the_penalty_is_the_one_of_the_lowest_log_loss_on_validation():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    x, up = rng.normal(size=(300, 6)), rng.random(300) < 0.5
    held = (rng.normal(size=(200, 6)), rng.random(200) < 0.5)
    prob = baselines._logistic(x, up, held)(held[0])
    losses = [
        loss_of(LogisticRegression(C=C).fit(x, up).predict_proba(held[0])[:, 1], held[1] - 0.5)
        for C in baselines.PENALTIES
    ]
    assert loss_of(prob, held[1] - 0.5) == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize(("y_ret", "share"), [([0.1] * 5, 1.0), ([0.0] * 5, 0.5), ([np.nan] * 5, 0.5)])
def test_a_train_part_of_one_class_teaches_its_share(name, y_ret, share):
    of = known(np.random.default_rng(0), 5)
    part = labelled(of, np.array(y_ret))
    assert fitted(name, part, part, of.context, 0, 1).prob.tolist() == [share] * 5


def test_without_the_train_part_what_is_fitted_is_left_out():
    of = known(np.random.default_rng(0), 4)
    found = baseline_forecasts(of, None, None, 0.6, ALL, 0, 1)
    assert list(found) == ["majority", "persistence", "momentum"]
    assert found["majority"].prob.tolist() == [0.6] * 4 and found["persistence"].prob is None


def test_what_is_forecast_for_a_row_does_not_depend_on_the_other_rows():
    rng = np.random.default_rng(2)
    train, test = known(rng, 500), known(rng, 40)
    part = labelled(train, planted(rng, train))
    few = Known(test.context[:7], test.past[:7], test.momentum[:7])
    whole, first = (baseline_forecasts(of, part, part, 0.5, ALL, 0, 1) for of in (test, few))
    for name in ALL:
        np.testing.assert_allclose(whole[name].take(np.arange(7)).prob, first[name].prob, rtol=1e-12)


def test_lightgbm_is_optional(monkeypatch):
    assert baselines.has_lightgbm()
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda name: None)
    assert not baselines.has_lightgbm()
    assert "lightgbm" in sys.modules  # the question did not need it


def test_forecasts_of_several_parts_are_joined_and_what_one_lacks_is_gone():
    a = Forecast(np.array([0.1]), np.array([0.2]), None, np.array([0.3]))
    b = Forecast(np.array([0.4]), np.array([0.5]), np.array([0.6]), np.array([0.7]))
    found = concatenated([a, b])
    assert found.score.tolist() == [0.1, 0.4] and found.prob.tolist() == [0.2, 0.5]
    assert found.ret is None and found.signal.tolist() == [0.3, 0.7]
