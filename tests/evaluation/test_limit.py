"""The best possible scores and the share of the gap, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stockenh.evaluation.metrics import limit_metrics, with_limits

NAN = float("nan")
SCORES = {"accuracy": 0.65, "majority": 0.5, "n": 4}


def limits(best_prob, y_ret, **scores):
    return limit_metrics({**SCORES, **scores}, np.array(best_prob), np.array(y_ret, dtype=np.float32))


def test_four_rows_by_hand():
    found = limits([0.8, 0.3, 0.5, 0.9], [0.1, -0.2, 0.3, -0.1])
    assert found["limit_accuracy"] == pytest.approx((0.8 + 0.7 + 0.5 + 0.9) / 4)
    # entropies in nats of 0.8, 0.3, 0.5 and 0.9
    assert found["limit_log_loss"] == pytest.approx((0.500402 + 0.610864 + 0.693147 + 0.325083) / 4, abs=1e-6)
    assert found["gap_closed"] == pytest.approx(0.15 / 0.225)


def test_rows_without_a_label_do_not_count_and_ties_only_in_the_log_loss():
    found = limits([0.8, 0.6, 0.9], [0.1, 0.0, NAN])
    assert found["limit_accuracy"] == pytest.approx(0.8)
    assert found["limit_log_loss"] == pytest.approx((0.500402 + 0.673012) / 2, abs=1e-6)


def test_below_the_majority_the_share_is_negative_and_beyond_the_limit_above_1():
    assert limits([0.7], [1.0], accuracy=0.45)["gap_closed"] == pytest.approx(-0.25)
    assert limits([0.7], [1.0], accuracy=0.75)["gap_closed"] == pytest.approx(1.25)


@pytest.mark.parametrize("p", [0.5, 0.505, 0.495])
def test_on_noise_there_is_no_gap_to_close(p):
    found = limits([p, 1 - p], [1.0, -1.0])
    assert found["gap_closed"] is None
    assert found["limit_accuracy"] == pytest.approx(max(p, 1 - p))


def test_what_is_undefined_is_none():
    assert set(limits([0.7], [NAN]).values()) == {None}
    assert limits([0.7], [0.0])["limit_accuracy"] is None
    assert limits([0.7], [1.0], accuracy=None)["gap_closed"] is None


def test_certainty_costs_nothing():
    assert limits([1.0, 0.0], [1.0, -1.0])["limit_log_loss"] == pytest.approx(0, abs=1e-5)


def test_every_horizon_keeps_its_scores_and_gets_its_own_limit():
    scores = {"h3": {**SCORES}, "h5": {**SCORES, "accuracy": 0.7}}
    found = with_limits(scores, np.array([[0.8, 0.9]]), np.array([[1.0, 1.0]]))
    assert [found[h]["limit_accuracy"] for h in ("h3", "h5")] == [0.8, 0.9]
    assert found["h5"]["gap_closed"] == pytest.approx(0.5) and found["h5"]["n"] == 4
    assert "limit_accuracy" not in scores["h3"]
