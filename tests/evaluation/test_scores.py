"""Scores against scikit-learn, their intervals, and differences on the same draws."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from stockenh.evaluation.bootstrap import BlockBootstrap
from stockenh.evaluation.metrics import horizon_metrics
from stockenh.evaluation.scores import FIGURES, WITH_INTERVAL, Forecast, score
from stockenh.inference.calibration import expected_calibration_error


def rows(seed: int, dates: int = 60, symbols: int = 3):
    """Dates, returns with ties among them, and forecasts that know a little."""
    rng = np.random.default_rng(seed)
    date = np.repeat(np.arange(dates), symbols)
    y_ret = rng.normal(0, 0.02, len(date))
    y_ret[rng.random(len(date)) < 0.05] = 0
    y_ret[:2] = 0.01, -0.01
    prob = np.clip(0.5 + 4 * y_ret + rng.normal(0, 0.2, len(date)), 0, 1)
    return date, y_ret, Forecast(prob, prob, 0.3 * y_ret + rng.normal(0, 0.01, len(date)), prob)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_figures_equal_scikit_learn(seed):
    date, y_ret, forecast = rows(seed)
    seen = score(forecast, y_ret, date, 60, None).seen
    moved, up = y_ret != 0, y_ret > 0
    said = forecast.score[moved] > 0.5
    assert seen["accuracy"] == pytest.approx(sk.accuracy_score(up[moved], said))
    assert seen["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(up[moved], said))
    assert seen["mcc"] == pytest.approx(sk.matthews_corrcoef(up[moved], said))
    assert seen["auc"] == pytest.approx(sk.roc_auc_score(up[moved], forecast.score[moved]))
    clipped = np.clip(forecast.prob, 1e-7, 1 - 1e-7)
    assert seen["log_loss"] == pytest.approx(sk.log_loss(up, clipped))
    assert seen["brier"] == pytest.approx(sk.brier_score_loss(up, forecast.prob))
    assert seen["mae"] == pytest.approx(sk.mean_absolute_error(y_ret, forecast.ret))
    assert seen["r2"] == pytest.approx(1 - sk.mean_squared_error(y_ret, forecast.ret) / (y_ret**2).mean())
    assert seen["ece"] == expected_calibration_error(forecast.prob, y_ret)


def test_they_are_the_figures_of_the_summary():
    date, y_ret, forecast = rows(1)
    summary = horizon_metrics(forecast.ret, forecast.prob, y_ret, date, block=5, seed=7)
    found = score(forecast, y_ret, date, 60, BlockBootstrap.draw(60, 5, 1000, 7)).figures()
    for name in ("accuracy", "accuracy_low", "accuracy_high", "auc", "log_loss", "brier", "mae"):
        assert found[name] == pytest.approx(summary[name]), name


def test_a_draw_of_every_date_once_gives_what_was_seen():
    date, y_ret, forecast = rows(2)
    once = BlockBootstrap(60, np.zeros((1, 1), np.int64), np.full((1, 1), 60))
    scored = score(forecast, y_ret, date, 60, once)
    for name in WITH_INTERVAL:
        assert scored.drawn[name][0] == pytest.approx(scored.seen[name]), name


def test_who_always_says_up_has_balanced_accuracy_and_auc_of_a_half_and_mcc_0():
    date, y_ret, _ = rows(3)
    found = score(Forecast(np.ones(len(date))), y_ret, date, 60, None).figures()
    assert found["accuracy"] == pytest.approx((y_ret > 0).sum() / (y_ret != 0).sum())
    assert (found["balanced_accuracy"], found["auc"], found["mcc"]) == (0.5, 0.5, 0)
    assert found["log_loss"] is None and found["r2"] is None and found["accuracy_low"] is None
    json.dumps(found, allow_nan=False)


def test_one_class_or_ties_alone_leave_undefined_what_needs_both():
    date = np.arange(4)
    rises = score(Forecast(np.array([0.9, 0.1, 0.9, 0.9])), np.full(4, 0.1), date, 4, None).figures()
    assert rises["accuracy"] == 0.75 and rises["auc"] is None and rises["balanced_accuracy"] is None
    ties = score(Forecast(np.full(4, 0.9)), np.zeros(4), date, 4, None).figures()
    assert [ties[name] for name in FIGURES] == [None] * len(FIGURES)


def test_a_nan_forecast_has_no_probability_scores():
    date, y_ret, forecast = rows(4)
    spoilt = forecast.prob.copy()
    spoilt[5] = np.nan
    found = score(Forecast(forecast.score, spoilt), y_ret, date, 60, None).figures()
    assert found["log_loss"] is None and found["brier"] is None and found["ece"] is None


def test_differences_are_paired():
    date, y_ret, good = rows(5, dates=200)
    draws = BlockBootstrap.draw(200, 10, 500, 0)
    scored = score(good, y_ret, date, 200, draws)
    alike = scored.beyond(score(good, y_ret, date, 200, draws))
    assert alike["accuracy"] == {"difference": 0, "low": 0, "high": 0, "p": 1}
    always = score(Forecast(np.full(len(date), 0.5)), y_ret, date, 200, draws)
    better = scored.beyond(always)["auc"]
    assert better["low"] > 0 and better["p"] < 0.01
    assert always.beyond(scored)["auc"]["difference"] == -better["difference"]
    # a smaller log loss is the better one
    worse = score(Forecast(1 - good.score, 1 - good.prob), y_ret, date, 200, draws)
    assert scored.beyond(worse)["log_loss"]["difference"] < 0
    assert scored.beyond(worse)["log_loss"]["p"] < 0.01 and worse.beyond(scored)["log_loss"]["p"] == 1
    assert scored.beyond(always)["log_loss"] == {"difference": None, "low": None, "high": None, "p": None}
