"""Scores as sums over dates."""

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import BlockBootstrap, block_variance
from stockenh.evaluation.metrics import Forecast, horizon_metrics, limits, score
from stockenh.evaluation.shares import limit_shares, shares, stacked
from stockenh.inference.calibration import expected_calibration_error

DATES, SYMBOLS = 150, 6


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    date = np.repeat(np.arange(DATES), SYMBOLS)
    common = np.convolve(rng.normal(size=DATES + 4), np.ones(5), "valid")
    y_ret = common[date] + rng.normal(size=len(date))
    y_ret[::41] = 0.0
    y_ret[-3 * SYMBOLS :] = np.nan
    up_prob = 1 / (1 + np.exp(-0.4 * y_ret - rng.normal(size=len(date))))
    up_prob[np.isnan(y_ret)] = 0.5
    return up_prob.round(2), y_ret, date


def test_their_sums_are_the_scores(rows):
    up_prob, y_ret, date = rows
    expected = horizon_metrics(up_prob, up_prob, y_ret, date, (5,), None)
    found = shares(*rows)
    for name in ("accuracy", "majority", "log_loss", "auc"):
        assert found[name].shape == (DATES - 3,)
        assert found[name].sum() == pytest.approx(expected[name])
    assert found["ece"].sum() == pytest.approx(expected_calibration_error(up_prob, y_ret))
    limit = limits(up_prob, y_ret)["limit_accuracy"]
    assert limit_shares(up_prob, y_ret, date).sum() == pytest.approx(limit)


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "auc"])
def test_resampled_dates_resample_them_as_they_do_the_score(rows, name):
    up_prob, y_ret, date = rows
    labelled = np.isfinite(y_ret)
    draws = BlockBootstrap.draw(DATES - 3, 15, 4000, seed=0)
    whole = score(Forecast(up_prob[labelled], up_prob[labelled]), y_ret[labelled], date[labelled],
                  DATES - 3, draws)  # fmt: skip
    error = np.sqrt(block_variance(shares(*rows)[name], 15))
    assert error == pytest.approx(whole.resampled[name].std(), rel=0.1)


def test_one_class_has_no_auc_and_no_label_nothing(rows):
    up_prob, y_ret, date = rows
    assert np.isnan(shares(up_prob, np.abs(y_ret) + 1, date)["auc"]).all()
    assert shares(up_prob, np.full(len(y_ret), np.nan), date) == {}


def test_a_score_that_a_seed_lacks_has_no_table(rows):
    found = shares(*rows)
    assert stacked([found, found], "auc").shape == (2, DATES - 3)
    assert stacked([found, {}], "auc") is None
    assert stacked([found, {"auc": np.full(DATES - 3, np.nan)}], "auc") is None
    assert stacked([], "auc") is None
