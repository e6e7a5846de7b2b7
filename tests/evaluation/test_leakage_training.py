"""Other later bars, shuffled labels and random splits: what moves or is learnt is a leak."""

from __future__ import annotations

import numpy as np
import pytest
from random_walks import walks

from stockenh.evaluation.leakage_training import (
    check_later_bars,
    check_random,
    check_shuffled,
    moved_rows,
    other_bars,
    random_against_purged,
    shuffled_labels,
    up_probability,
)

BARS = walks(60, 2)


def changed(after: np.datetime64, seed: int) -> np.ndarray:
    return other_bars(BARS.ohlcv, BARS.time, BARS.offsets, after, seed)


@pytest.mark.parametrize("at", [0, 30, 58])
def test_bars_up_to_the_date_stay_and_every_later_one_is_another_valid_bar(at):
    date = BARS.time[at]
    ohlcv = changed(date, 1)
    known = BARS.time <= date
    assert (ohlcv[known] == BARS.ohlcv[known]).all()
    assert (ohlcv[~known] != BARS.ohlcv[~known]).all()
    opening, high, low, close, volume = ohlcv.T
    assert (high >= np.maximum(opening, close)).all() and (low <= np.minimum(opening, close)).all()
    assert (low > 0).all() and (volume >= 0).all() and np.isfinite(ohlcv).all()


def test_one_series_goes_up_and_the_next_down_and_all_again_by_the_seed():
    for seed, signs in ((0, [-1, 1]), (1, [1, -1])):
        ohlcv = changed(BARS.time[30], seed)
        steps = [ohlcv[31 + 60 * s, 3] / ohlcv[30 + 60 * s, 3] - 1 for s in range(2)]
        assert np.sign(steps).tolist() == signs and min(map(abs, steps)) > 0.1


def test_a_series_that_begins_after_the_date_is_replaced_whole():
    ohlcv = changed(BARS.time[0] - np.timedelta64(1, "D"), 0)
    assert (ohlcv != BARS.ohlcv).all()


def test_differences_are_told_to_the_last_bit():
    before = np.array([[1.0, 0.0], [2.0, 3.0]], np.float32)
    after = before.copy()
    after[1, 0] = np.nextafter(np.float32(2), np.float32(3))
    assert moved_rows(before, after).tolist() == [[False, False], [True, False]]
    assert not moved_rows(before, before.copy()).any()


def test_what_moved_is_named_the_most_moved_first():
    found = check_later_bars({"rsi_14": 0, "swing": 7, "gap": 9}, 1000, 4, 2, noticed=True)
    assert found.finding == "FAIL" and "gap (in 9), swing (in 7) moved" in found.measured
    assert found.figures["moved"] == {"gap": 9, "swing": 7}
    assert check_later_bars({"rsi_14": 0}, 1000, 4, 2, noticed=True).finding == "pass"


def test_features_that_notice_no_bars_at_all_are_not_passed():
    assert check_later_bars({"rsi_14": 0}, 1000, 4, 2, noticed=False).finding == "warn"


MAJORITY = {"h3": 0.52}


def test_labels_are_shuffled_in_blocks_of_one_symbol():
    symbol = np.repeat([0, 1], 20)
    asof = np.tile(np.arange(20), 2).astype("M8[s]")
    labels = np.arange(40.0)[:, None]
    found = shuffled_labels(symbol, asof, labels, block=5, seed=0)[:, 0]
    assert sorted(found) == list(range(40)) and (found != np.arange(40)).mean() > 0.5
    blocks = found.reshape(8, 5)
    assert (np.diff(blocks, axis=1) == 1).all() and (blocks[:, 0] % 5 == 0).all()
    order = np.random.default_rng(1).permutation(40)
    mixed = shuffled_labels(symbol[order], asof[order], labels[order], block=5, seed=0)
    np.testing.assert_array_equal(mixed[:, 0], found[order])


@pytest.mark.parametrize(
    ("scores", "finding"),
    [
        ([0.50, 0.51, 0.52, 0.52], "pass"),  # below
        ([0.60, 0.45, 0.58, 0.50], "pass"),  # some far above, by the luck of what was drawn
        ([0.52, 0.52, 0.52, 0.52], "pass"),  # all forecast the majority class
        ([0.61, 0.60, 0.62, 0.61], "FAIL"),
    ],
)
def test_only_a_steady_excess_is_a_leak(scores, finding):
    found = check_shuffled({"own model": {"h3": scores}}, MAJORITY)
    assert found.finding == finding
    assert found.figures["own model"]["h3"]["accuracy"] == pytest.approx(np.mean(scores))


def test_without_a_test_part_there_is_nothing_to_learn():
    assert check_shuffled({}, {}).finding == "n/a"
    assert check_random({}, run_is_random=False).finding == "n/a"


def test_labels_of_one_class_teach_nothing():
    x = np.arange(6.0)[:, None]
    assert up_probability("logistic regression", x, np.ones(6), x, 0) is None
    taught = np.array([-1.0, -1, np.nan, 0, 1, 1])
    found = up_probability("logistic regression", x, taught, x, 0)
    assert found is not None and (np.diff(found) > 0).all() and found[0] < 0.5 < found[-1]


def test_a_random_split_of_noise_looks_like_skill_and_a_purged_one_does_not():
    rng = np.random.default_rng(0)
    n, horizon = 1500, 20
    walk = rng.normal(size=n + horizon).cumsum()
    returns = (walk[horizon:] - walk[:n]).astype(np.float32)[:, None]
    context = rng.normal(size=(n, 3)).cumsum(0)
    rows = {"train": np.arange(1000), "val": np.arange(1020, 1200), "test": np.arange(1220, n)}
    asof = np.arange(n).astype("M8[D]").astype("M8[s]")
    found = random_against_purged(context, returns, asof, rows, (horizon,), seed=0)
    scores = found["gradient boosting"]["h20"]
    assert scores["random"]["accuracy"] > 0.7 > scores["random"]["majority"] + 0.1
    assert scores["purged"]["accuracy"] < scores["purged"]["majority"]
    assert scores["random"]["n"] == scores["purged"]["n"] == 280
    shown = check_random(found, run_is_random=False)
    assert shown.finding == "info" and "gradient boosting at 20 bars" in shown.measured
    assert check_random(found, run_is_random=True).finding == "FAIL"
