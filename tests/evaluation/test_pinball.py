"""Pinball loss and coverage by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import mean_pinball_loss

from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.pinball import QuantileForecasts, pinball, quantile_figures
from stockenh.evaluation.summary import Part

LEVELS = (0.1, 0.5, 0.9)
RNG = np.random.default_rng(0)
DAYS, SYMBOLS = 200, 4
ROWS = DAYS * SYMBOLS
Y = RNG.normal(0, 0.02, (ROWS, 2))
ASOF = np.repeat(np.arange(DAYS), SYMBOLS).astype("datetime64[D]").astype("datetime64[s]")
RIGHT = np.broadcast_to(0.02 * np.array([-1.2816, 0, 1.2816]), (ROWS, 2, 3))


def part(y=Y):
    return Part(ASOF, y, (1, 3))


def test_the_loss_is_scikit_learns():
    quantiles = np.sort(RNG.normal(0, 0.02, (ROWS, 3)), axis=1)
    expected = np.mean(
        [mean_pinball_loss(Y[:, 0], q, alpha=a) for a, q in zip(LEVELS, quantiles.T, strict=True)]
    )
    assert pinball(quantiles, Y[:, 0], LEVELS).mean() == pytest.approx(expected)


def test_figures_of_the_right_quantiles_against_those_of_train():
    of_train = np.broadcast_to(0.05 * np.array([-1.2816, 0, 1.2816]), (ROWS, 2, 3))
    interval = np.broadcast_to(np.array([-0.04, 0.04]), (ROWS, 2, 2))
    found = quantile_figures(part(), QuantileForecasts(LEVELS, RIGHT, of_train, interval), Resampling())
    for column, figures in enumerate(found.values()):
        own, train = (pinball(q[:, column], Y[:, column], LEVELS).mean() for q in (RIGHT, of_train))
        assert figures["pinball"]["value"] == pytest.approx(own)
        assert figures["pinball_train"] == pytest.approx(train)
        assert figures["against"]["value"] == pytest.approx(own - train)
        assert figures["against"]["high"] < 0 and figures["pinball"]["low"] < own < figures["pinball"]["high"]
        inside = (np.abs(Y[:, column]) <= 0.02 * 1.2816).mean()
        assert figures["coverage"]["value"] == pytest.approx(inside)
        assert figures["coverage"]["low"] < 0.8 < figures["coverage"]["high"]
        assert figures["conformal"]["value"] == pytest.approx((np.abs(Y[:, column]) <= 0.04).mean())
        assert figures["width"] == pytest.approx(0.04 * 1.2816) and figures[
            "conformal_width"
        ] == pytest.approx(0.08)


def test_rows_without_a_label_are_left_out_and_what_is_not_known_is_none():
    y = Y.copy()
    y[::2, 0] = np.nan
    other = QuantileForecasts((0.05, 0.5, 0.95), RIGHT, None, None)
    found = quantile_figures(part(y), other, Resampling())["h1"]
    assert found["pinball"]["value"] == pytest.approx(
        pinball(RIGHT[1::2, 0], y[1::2, 0], other.levels).mean()
    )
    names = ("pinball_train", "against", "coverage", "conformal", "width", "conformal_width")
    assert {found[name] for name in names} == {None}
    few = Part(ASOF[:8], Y[:8], (1, 3))
    found = quantile_figures(few, QuantileForecasts(LEVELS, RIGHT[:8], None, None), Resampling())["h3"]
    assert found["coverage"]["low"] is None and found["coverage"]["value"] is not None
    nothing = Part(ASOF[:8], np.full((8, 2), np.nan), (1, 3))
    assert (
        quantile_figures(nothing, QuantileForecasts(LEVELS, RIGHT[:8], None, None), Resampling())["h1"][
            "pinball"
        ]
        is None
    )


def test_runs_are_pooled_where_all_have_quantiles():
    one = QuantileForecasts(LEVELS, RIGHT[:3], RIGHT[:3], None)
    both = QuantileForecasts.pooled([one, one.take(np.array([2]))])
    assert len(both.quantiles) == len(both.of_train) == 4 and both.interval is None
    assert QuantileForecasts.pooled([one, None]) is None
