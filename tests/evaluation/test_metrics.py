"""Scores against hand counts and scikit-learn, their intervals, and differences on the same draws."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from stockenh.evaluation.bootstrap import BlockBootstrap, Resampling
from stockenh.evaluation.metrics import (
    FIGURES,
    WITH_INTERVAL,
    Forecast,
    coverage_curve,
    gap_closed,
    horizon_metrics,
    limits,
    part_metrics,
    score,
    with_limits,
)
from stockenh.inference.calibration import expected_calibration_error

NAN = float("nan")


def days(n: int, symbols: int = 1) -> np.ndarray:
    return np.repeat(np.datetime64("2020-01-01") + np.arange(n), symbols)


def scores(ret, up_prob, y_ret, **options):
    arrays = [np.asarray(values, dtype=float) for values in (ret, up_prob, y_ret)]
    return horizon_metrics(
        *arrays, days(len(arrays[0])), (3,), Resampling(options.pop("block", 3), **options)
    )


def accuracy_interval(up_prob, y_ret, dates, **options) -> tuple[float | None, float | None]:
    found = horizon_metrics(np.zeros(len(y_ret)), up_prob, y_ret, dates, (3,), Resampling(**options))
    return found["accuracy_low"], found["accuracy_high"]


def test_six_rows_by_hand():
    found = scores(
        ret=[0.01, 0.00, 0.02, -0.01, 0.00, 0.0],
        up_prob=[0.6, 0.7, 0.5, 0.2, 0.9, 0.8],
        y_ret=[0.02, -0.01, 0.03, -0.01, 0.0, NAN],
    )
    assert (found["n"], found["ties"], found["tie_share"]) == (5, 1, 0.2)
    # Of the four rows that moved, 0.6 is right, 0.7 wrong, 0.5 means down and is wrong, 0.2 is right.
    assert found["accuracy"] == found["majority"] == 0.5
    # Ups 0.6 and 0.5 against downs 0.7 and 0.2: two of four pairs are in order.
    assert found["auc"] == pytest.approx(0.5)
    # The tie has no direction: its 0.9 costs nothing, and its return counts.
    assert found["log_loss"] == pytest.approx(-np.log([0.6, 0.3, 0.5, 0.8]).mean())
    assert found["brier"] == pytest.approx(np.square([0.4, 0.7, 0.5, 0.2]).mean())
    assert found["mae"] == pytest.approx((0.01 + 0.01 + 0.01 + 0 + 0) / 5)


@pytest.mark.parametrize("y_ret", [[1, -1, -1, -1], [1, 1, 1, -1]])
def test_majority_is_the_larger_class_whichever_it_is(y_ret):
    assert scores([0] * 4, [0.5] * 4, y_ret)["majority"] == pytest.approx(0.75)


def test_probabilities_of_0_and_1_cost_a_finite_log_loss():
    found = scores([0, 0], [0.0, 1.0], [0.1, -0.1])
    assert found["log_loss"] == pytest.approx(-np.log(1e-7), rel=1e-6)
    assert found["brier"] == pytest.approx(1.0)


def rows(seed: int, dates: int = 60, symbols: int = 3):
    """Dates, returns with ties among them, and forecasts that know a little, some of them equal."""
    rng = np.random.default_rng(seed)
    date = np.repeat(np.arange(dates), symbols)
    y_ret = rng.normal(0, 0.02, len(date))
    y_ret[rng.random(len(date)) < 0.05] = 0
    y_ret[:2] = 0.01, -0.01
    prob = np.clip(0.5 + 4 * y_ret + rng.normal(0, 0.2, len(date)), 0, 1).round(rng.integers(1, 6))
    return date, y_ret, Forecast(prob, prob, 0.3 * y_ret + rng.normal(0, 0.01, len(date)), prob)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_figures_equal_scikit_learn_in_summaries_and_in_evaluations(seed):
    date, y_ret, forecast = rows(seed)
    observed = score(forecast, y_ret, date, 60, None).observed
    moved, up = y_ret != 0, y_ret > 0
    forecast_up = forecast.score[moved] > 0.5
    clipped = np.clip(forecast.prob, 1e-7, 1 - 1e-7)
    expected = {
        "accuracy": sk.accuracy_score(up[moved], forecast_up),
        "auc": sk.roc_auc_score(up[moved], forecast.score[moved]),
        "log_loss": sk.log_loss(up[moved], clipped[moved]),
        "brier": sk.brier_score_loss(up[moved], forecast.prob[moved]),
        "mae": sk.mean_absolute_error(y_ret, forecast.ret),
    }
    summary = horizon_metrics(forecast.ret, forecast.prob, y_ret, date, (3,), None)
    for name, value in expected.items():
        assert observed[name] == pytest.approx(value) and summary[name] == pytest.approx(value), name
    assert observed["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(up[moved], forecast_up))
    assert observed["mcc"] == pytest.approx(sk.matthews_corrcoef(up[moved], forecast_up))
    r2 = 1 - sk.mean_squared_error(y_ret, forecast.ret) / (y_ret**2).mean()
    assert observed["r2"] == pytest.approx(r2)
    assert observed["ece"] == expected_calibration_error(forecast.prob, y_ret)


def test_summaries_and_evaluations_have_the_same_interval():
    date, y_ret, forecast = rows(1)
    summary = horizon_metrics(forecast.ret, forecast.prob, y_ret, date, (3,), Resampling(5, seed=7))
    found = score(forecast, y_ret, date, 60, BlockBootstrap.draw(60, 5, 1000, 7)).figures()
    for end in ("accuracy_low", "accuracy_high"):
        assert found[end] == summary[end]


@pytest.mark.parametrize("y_ret", [[], [NAN, NAN]])
def test_without_labels_all_figures_but_counts_are_none(y_ret):
    found = scores([0.0] * len(y_ret), [0.5] * len(y_ret), y_ret)
    assert (found.pop("n"), found.pop("ties")) == (0, 0)
    assert set(found.values()) == {None}


def test_ties_or_one_class_alone_leave_what_needs_both_undefined():
    found = scores([0.1] * 8, [0.6] * 8, [0.0] * 8)
    undefined = {key for key, value in found.items() if value is None}
    assert undefined == {
        "accuracy", "accuracy_low", "accuracy_high", "up_share", "majority", "auc", "log_loss", "brier",
    }  # fmt: skip
    assert found["tie_share"] == 1
    ties = score(Forecast(np.full(4, 0.9)), np.zeros(4), np.arange(4), 4, None).figures()
    assert [ties[name] for name in FIGURES] == [None] * len(FIGURES)
    found = scores([0, 0], [0.6, 0.4], [0.1, 0.2])
    assert (found["accuracy"], found["majority"], found["auc"]) == (0.5, 1.0, None)
    rises = score(Forecast(np.array([0.9, 0.1])), np.full(2, 0.1), np.arange(2), 2, None).figures()
    assert (rises["accuracy"], rises["auc"], rises["balanced_accuracy"]) == (0.5, None, None)


def test_nan_forecasts_give_none_and_stay_valid_json():
    found = scores([NAN] * 8, [NAN] * 8, [0.1, -0.1] * 4)
    spoilt = ("accuracy", "accuracy_low", "log_loss", "brier", "auc", "mae")
    assert {found[key] for key in spoilt} == {None}
    json.dumps(found, allow_nan=False)
    date, y_ret, forecast = rows(4)
    one = forecast.prob.copy()
    one[5] = NAN
    found = score(Forecast(forecast.score, one), y_ret, date, 60, None).figures()
    assert {found[key] for key in ("log_loss", "brier", "ece")} == {None}


def test_part_metrics_scores_each_column_under_its_horizon():
    y_ret = np.array([[0.1, -0.1], [0.1, -0.1], [-0.1, 0.1], [0.1, NAN]], dtype=np.float32)
    ret, up_prob = np.zeros_like(y_ret), np.full_like(y_ret, 0.9)
    found = part_metrics(ret, up_prob, y_ret, days(4), [3, 10], Resampling())
    assert list(found) == ["h3", "h10"]
    assert (found["h3"]["n"], found["h3"]["accuracy"]) == (4, 0.75)
    assert (found["h10"]["n"], found["h10"]["accuracy"]) == (3, pytest.approx(1 / 3))
    with pytest.raises(ValueError, match="zip"):
        part_metrics(ret, up_prob, y_ret, days(4), [3, 5, 10], None)


def test_interval_is_a_point_where_every_date_scores_the_same():
    y_ret = np.tile([0.1, 0.1, 0.1, -0.1], 50)
    assert accuracy_interval(np.full(200, 0.9), y_ret, days(50, symbols=4), block=10) == (0.75, 0.75)


def test_interval_repeats_with_the_seed_and_does_not_depend_on_row_order():
    rng = np.random.default_rng(0)
    arrays = rng.random(400), rng.normal(size=400), days(100, symbols=4)
    first = accuracy_interval(*arrays, block=10, seed=1)
    order = rng.permutation(400)
    assert accuracy_interval(*(array[order] for array in arrays), block=10, seed=1) == first
    assert accuracy_interval(*arrays, block=10, seed=2) != first


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
        part_metrics(y_ret, up_prob, y_ret, days(2500, symbols=4), [3, 5, 10], None)
        middle = time.process_time()
        part_metrics(y_ret, up_prob, y_ret, days(2500, symbols=4), [3, 5, 10], Resampling())
        seconds.append((middle - start, time.process_time() - middle))
    plain, with_intervals = np.min(seconds, axis=0)
    assert plain < 0.1
    assert with_intervals < 1.0


def test_a_draw_of_every_date_once_gives_the_observed_figures():
    date, y_ret, forecast = rows(2)
    once = BlockBootstrap(60, np.zeros((1, 1), np.int64), np.full((1, 1), 60), 60)
    scored = score(forecast, y_ret, date, 60, once)
    for name in WITH_INTERVAL:
        assert scored.resampled[name][0] == pytest.approx(scored.observed[name]), name


def test_always_up_has_balanced_accuracy_and_auc_of_a_half_and_mcc_0():
    date, y_ret, _ = rows(3)
    found = score(Forecast(np.ones(len(date))), y_ret, date, 60, None).figures()
    assert found["accuracy"] == pytest.approx((y_ret > 0).sum() / (y_ret != 0).sum())
    assert (found["balanced_accuracy"], found["auc"], found["mcc"]) == (0.5, 0.5, 0)
    assert found["log_loss"] is None and found["r2"] is None and found["accuracy_low"] is None
    json.dumps(found, allow_nan=False)


def test_differences_are_paired():
    date, y_ret, good = rows(5, dates=200)
    draws = BlockBootstrap.draw(200, 10, 500, 0)
    scored = score(good, y_ret, date, 200, draws)
    alike = scored.minus(score(good, y_ret, date, 200, draws))
    assert alike["accuracy"] == {"difference": 0, "low": 0, "high": 0, "p": 1}
    always = score(Forecast(np.full(len(date), 0.5)), y_ret, date, 200, draws)
    better = scored.minus(always)["auc"]
    assert better["low"] > 0 and better["p"] < 0.01
    assert always.minus(scored)["auc"]["difference"] == -better["difference"]
    # a smaller log loss is the better one
    worse = score(Forecast(1 - good.score, 1 - good.prob), y_ret, date, 200, draws)
    assert scored.minus(worse)["log_loss"]["difference"] < 0
    assert scored.minus(worse)["log_loss"]["p"] < 0.01 and worse.minus(scored)["log_loss"]["p"] == 1
    assert scored.minus(always)["log_loss"] == {"difference": None, "low": None, "high": None, "p": None}


@pytest.mark.parametrize(
    ("best_prob", "y_ret", "accuracy", "entropies"),
    [
        # entropies in nats of 0.8, 0.3, 0.5 and 0.9
        ([0.8, 0.3, 0.5, 0.9], [0.1, -0.2, 0.3, -0.1], 0.725, [0.500402, 0.610864, 0.693147, 0.325083]),
        ([0.8, 0.6, 0.9], [0.1, 0.0, NAN], 0.8, [0.500402]),  # a tie in neither
        ([0.7], [0.0], None, None),
        ([1.0, 0.0], [1.0, -1.0], 1.0, [0.0]),  # certainty costs nothing
        ([0.7], [NAN], None, None),
    ],
)
def test_limits_by_hand(best_prob, y_ret, accuracy, entropies):
    found = limits(np.array(best_prob), np.array(y_ret, np.float32))
    log_loss = entropies and pytest.approx(np.mean(entropies), abs=1e-5)
    assert found == {"limit_accuracy": accuracy and pytest.approx(accuracy), "limit_log_loss": log_loss}


@pytest.mark.parametrize(
    ("figures", "share"),
    [
        ((0.65, 0.5, 0.725), 0.15 / 0.225),
        ((0.45, 0.5, 0.7), -0.25),  # below the majority
        ((0.75, 0.5, 0.7), 1.25),  # beyond the limit
        ((0.65, 0.5, 0.505), None),  # on noise there is no gap to close
        ((None, 0.5, 0.7), None),
    ],
)
def test_the_share_of_the_gap_that_is_closed(figures, share):
    assert gap_closed(*figures) == (None if share is None else pytest.approx(share))


def test_every_horizon_keeps_its_scores_and_gets_its_own_limit():
    given = {f"h{h}": {"accuracy": a, "majority": 0.5, "n": 4} for h, a in ((3, 0.65), (5, 0.7))}
    found = with_limits(given, np.array([[0.8, 0.9]]), np.array([[1.0, 1.0]]))
    assert [found[h]["limit_accuracy"] for h in ("h3", "h5")] == [0.8, 0.9]
    assert found["h5"]["gap_closed"] == pytest.approx(0.5) and found["h5"]["n"] == 4
    assert "limit_accuracy" not in given["h3"]


def test_a_coverage_curve_of_four_rows_and_a_tie_by_hand():
    up_prob, uncertainty = np.array([0.9, 0.8, 0.4, 0.6, 0.7]), np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    y_ret = np.array([0.1, -0.1, -0.1, 0.1, 0.0])  # the last is a tie, however sure
    half, every = coverage_curve(up_prob, uncertainty, y_ret, np.arange(5), 5, None, (0.5, 1.0))
    assert (half["coverage"], half["n"], half["accuracy"], half["majority"]) == (0.5, 2, 0.5, 0.5)
    assert (every["coverage"], every["n"], every["accuracy"]) == (1, 4, 0.75)
    assert every["low"] is None and every["above_low"] is None
    ties = np.zeros(4)
    assert coverage_curve(np.ones(4), np.ones(4), ties, np.arange(4), 4, None) == []
    alike = np.full(10, 0.1)  # rows of equal uncertainty are kept together
    (found,) = coverage_curve(np.full(10, 0.9), alike, alike, np.arange(10), 10, None, (0.1,))
    assert found["coverage"] == 1 and found["n"] == 10


def test_where_the_least_uncertain_are_right_the_curve_falls_and_lies_above_their_majority():
    rng = np.random.default_rng(0)
    uncertainty, y_ret = rng.random(2000), rng.normal(size=2000)
    right = rng.random(2000) > uncertainty / 2
    up_prob = np.where(right == (y_ret > 0), 0.9, 0.1)
    draws = BlockBootstrap.draw(500, 5, 300, 0)
    found = coverage_curve(up_prob, uncertainty, y_ret, np.repeat(np.arange(500), 4), 500, draws)
    accuracy = [point["accuracy"] for point in found]
    assert accuracy[0] > 0.93 and accuracy[-1] == pytest.approx(0.75, abs=0.03)
    assert accuracy == sorted(accuracy, reverse=True)
    assert all(point["low"] < point["accuracy"] < point["high"] for point in found)
    assert found[0]["above_low"] > 0.3
