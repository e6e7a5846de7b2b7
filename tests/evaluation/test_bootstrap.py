"""The bootstrap over dates: draws by hand, an AUC of every draw, and coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from stockenh.evaluation import bootstrap
from stockenh.evaluation.bootstrap import (
    BlockBootstrap,
    Resampling,
    auc_of_draws,
    pair_counts,
    ratio,
)


def test_draws_are_blocks_of_dates_in_a_row_the_last_cut_to_length():
    draws = BlockBootstrap.draw(dates=10, block=4, resamples=200, seed=3)
    counts = draws.counts()
    assert counts.shape == (200, 10) and (counts.sum(1) == 10).all()
    assert (draws.ends - draws.starts == [4, 4, 2]).all() and draws.ends.max() <= 10
    by_hand = np.zeros(10)
    for begin, end in zip(draws.starts[0], draws.ends[0], strict=True):
        by_hand[begin:end] += 1
    assert counts[0].tolist() == by_hand.tolist()
    per_date = np.random.default_rng(0).normal(size=(3, 10))
    np.testing.assert_allclose(draws.sums(per_date), per_date @ counts.T)


def test_no_draws_where_two_blocks_do_not_fit():
    assert BlockBootstrap.draw(dates=9, block=5, resamples=100, seed=0) is None
    assert BlockBootstrap.draw(dates=10, block=5, resamples=0, seed=0) is None
    assert BlockBootstrap.draw(dates=10, block=5, resamples=100, seed=0) is not None


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), levels=st.integers(1, 12), dates=st.integers(4, 300))
def test_the_auc_of_every_draw_is_scikit_learns_on_the_rows_drawn(seed, levels, dates):
    rng = np.random.default_rng(seed)
    date = np.sort(np.concatenate([np.arange(dates), rng.integers(0, dates, 60)]))
    score, up = rng.integers(0, levels, len(date)) / levels, rng.random(len(date)) < 0.5
    draws = BlockBootstrap.draw(dates, 2, 5, seed)
    counts = draws.counts()
    rises, falls = (np.bincount(date[of], minlength=dates).astype(float) for of in (up, ~up))
    found = auc_of_draws(pair_counts(score, up, date, dates), rises, falls, counts)
    for draw, value in zip(counts, found, strict=True):
        rows = np.repeat(np.arange(len(date)), draw[date].astype(int))
        if 0 < up[rows].sum() < len(rows):
            assert value == pytest.approx(roc_auc_score(up[rows], score[rows]))
        else:
            assert np.isnan(value)


def wide(dates=1000, block=10):
    """Draws, and how much wider than their quantiles an interval is."""
    return BlockBootstrap.draw(dates, block, 1, 0), BlockBootstrap.draw(dates, block, 1, 0).widening


def test_an_interval_is_the_quantiles_widened_around_what_was_seen():
    draws, widening = wide()
    # b = 0.01 and 100 blocks
    assert widening == pytest.approx((1 + (2.9694 * 0.01 + 0.416e-4) / 1.96) * (100 / 99.5) ** 0.5, rel=1e-5)
    low, high = draws.interval(700.0, np.append(np.arange(1001.0), np.nan))
    assert (low, high) == pytest.approx((700 - 475 * widening, 700 + 475 * widening))
    assert draws.interval(0.9, np.arange(1001.0) / 1000, (0.0, 1.0))[1] == 1.0
    assert (
        draws.interval(0.9, np.array([np.nan, np.nan])) == draws.interval(np.nan, np.ones(3)) == (None, None)
    )
    assert wide(100, 10)[1] > wide(200, 10)[1] > widening  # fewer blocks
    assert ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist()[1] == 0.5


def test_blocks_are_three_times_the_largest_horizon_unless_given():
    assert Resampling().block_of((3, 10)) == 30 and Resampling(block=12).block_of((3, 10)) == 12
    assert Resampling().draw(59, (10,)) is None and Resampling().draw(60, (10,)).block == 30


def test_p_is_small_for_a_clear_difference_one_for_none_and_never_0():
    rng, draws = np.random.default_rng(0), wide()[0]
    assert draws.p_above_zero(0.5, 0.5 + rng.normal(0, 0.1, 999)) == pytest.approx(1 / 1000)
    assert draws.p_above_zero(0.0, np.zeros(999)) == 1
    assert draws.p_above_zero(-0.5, -0.5 + rng.normal(0, 0.1, 999)) == 1
    assert draws.p_above_zero(0.0, rng.normal(0, 0.1, 9999)) == pytest.approx(0.5, abs=0.03)
    # draws that lie to one side of what was seen, as blocks of few dates do, say nothing for or against it
    assert draws.p_above_zero(0.0, 0.3 + rng.normal(0, 0.1, 9999)) == pytest.approx(0.5, abs=0.03)
    assert draws.p_above_zero(np.nan, np.zeros(9)) is None
    # it is 2.5% where the interval ends at 0
    seen = rng.normal(0.2, 0.1, 99999)
    low, _ = draws.interval(0.2, seen)
    assert draws.p_above_zero(0.2 - low, seen) == pytest.approx(0.025, abs=0.001)


def test_auc_of_many_rows_is_that_of_few(monkeypatch):
    rng = np.random.default_rng(3)
    count, dates = 6_000, 40
    date, score = rng.integers(0, dates, count), rng.normal(size=count)
    up = rng.random(count) < 1 / (1 + np.exp(-score))
    rises, falls = (np.bincount(date[side], minlength=dates).astype(float) for side in (up, ~up))
    draws = rng.poisson(1, (50, dates)).astype(float)
    exact = auc_of_draws(pair_counts(score, up, date, dates), rises, falls, draws)
    monkeypatch.setattr(bootstrap, "_MOST_EXACT", 1_000)
    binned = auc_of_draws(pair_counts(score, up, date, dates), rises, falls, draws)
    assert np.abs(binned - exact).max() < 1e-4
    few = np.round(score)  # fewer scores than bins: exact
    assert np.array_equal(pair_counts(few, up, date, dates).sum(1) > 0, rises > 0)
    binned = pair_counts(few, up, date, dates)
    monkeypatch.setattr(bootstrap, "_MOST_EXACT", 10_000)
    assert np.allclose(binned, pair_counts(few, up, date, dates))
