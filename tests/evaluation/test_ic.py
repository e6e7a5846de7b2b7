"""Daily information coefficients against scipy, their t against statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import pearsonr, spearmanr

from stockenh.evaluation.bootstrap import BlockBootstrap, bartlett_critical
from stockenh.evaluation.ic import daily_ic, daily_rank_ics, hac_mean, ic_figures, newey_west_t, p_of_t


def test_every_date_has_scipys_correlations_ties_included():
    rng = np.random.default_rng(0)
    date = rng.permutation(np.repeat(np.arange(40), 7))
    signal, y_ret = rng.integers(0, 5, 280).astype(float), rng.integers(-3, 4, 280) / 100
    found = daily_ic(signal, y_ret, date, 40)
    for day in range(40):
        x, y = signal[date == day], y_ret[date == day]
        assert found.ic[day] == pytest.approx(pearsonr(x, y)[0])
        assert found.rank_ic[day] == pytest.approx(spearmanr(x, y)[0])
    reverse = daily_rank_ics(np.stack([signal, -signal], axis=1), y_ret, date, 40)
    np.testing.assert_allclose(reverse, [found.rank_ic, -found.rank_ic])


def test_a_date_with_two_symbols_or_one_opinion_has_none():
    date = np.array([0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    signal = np.array([0.1, 0.2, 0.3, 0.3, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    y_ret = np.array([0.1, 0.2, 0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.3, 0.2, 0.1])
    found = daily_ic(signal, y_ret, date, 5)
    (again,) = daily_rank_ics(signal[:, None], y_ret, date, 5)
    for values in (found.ic, found.rank_ic, again):
        assert np.isnan(values[[0, 1, 2, 4]]).all() and values[3] == pytest.approx(-1)


def test_one_symbol_has_no_ic_at_all():
    values = daily_ic(np.arange(9.0), np.arange(9.0), np.arange(9), 9).ic
    found = ic_figures(values, 5, None)
    assert found.pop("dates") == 0
    assert set(found.values()) == {None}


@pytest.mark.parametrize("lag", [0, 4, 9])
def test_newey_west_is_statsmodels(lag):
    rng = np.random.default_rng(lag)
    values = 0.1 + np.convolve(rng.normal(size=309), np.ones(10), "valid")
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="HAC", cov_kwds={"maxlags": lag})
    assert newey_west_t(values, lag) == pytest.approx(float(fit.tvalues[0]))


@pytest.mark.parametrize(
    ("dates", "horizon", "lag", "critical"),
    [
        (300, 10, 29, 1.96 + 2.9694 * 0.1 + 0.416 * 0.01 - 0.5324 * 0.001),
        (900, 3, 8, 1.96 + 2.9694 * 0.01 + 0.416 * 1e-4 - 0.5324 * 1e-6),
        (6, 10, 5, 4.813),  # all dates: the table's value for b = 1
    ],
)
def test_the_lag_is_thrice_the_overlap_and_its_critical_value_that_of_its_share(
    dates, horizon, lag, critical
):
    found = ic_figures(np.random.default_rng(0).normal(size=dates), horizon, None)
    assert found["lag"] == lag and found["critical"] == pytest.approx(critical, abs=1e-3)


def test_equal_coefficients_have_no_t():
    assert newey_west_t(np.full(8, 0.1), 3) is None


def test_figures_by_hand_and_their_interval():
    of_dates = np.array([0.1, np.nan, 0.3, 0.2, np.nan, 0.4])
    found = ic_figures(of_dates, 2, BlockBootstrap.draw(6, 2, 200, 0))
    assert found["dates"] == 4 and found["mean"] == pytest.approx(0.25)
    assert found["std"] == pytest.approx(np.std([0.1, 0.3, 0.2, 0.4], ddof=1))
    assert found["icir"] == pytest.approx(found["mean"] / found["std"])
    assert -1 <= found["low"] < 0.25 < found["high"] <= 1


@pytest.mark.parametrize("share", [0.001, 0.05, 0.2, 0.5])
def test_p_is_five_percent_at_the_critical_value_and_shrinks_beyond(share):
    critical = bartlett_critical(share)
    assert p_of_t(critical, share) == p_of_t(-critical, share) == pytest.approx(0.05)
    assert p_of_t(0, share) == 1 and p_of_t(2 * critical, share) < 0.01


def test_p_has_the_tails_of_a_t_with_bartlett_weights():
    """Two-sided 2% of Kiefer and Vogelsang's (2005) table 1 for shares of 0.1 and 0.2."""
    for share, critical in ((0.1, 2.3263 + 0.41618 + 0.005368), (0.2, 2.3263 + 0.83236 + 0.021472)):
        assert p_of_t(critical, share) == pytest.approx(0.02, abs=0.0025)


def test_the_interval_of_part_of_the_dates_is_statsmodels_where_they_follow_each_other():
    rng = np.random.default_rng(0)
    values = np.convolve(0.05 + rng.normal(0, 0.1, 204), np.ones(5) / 5, "valid")
    coefficients = np.concatenate([np.full(30, np.nan), values, np.full(70, np.nan)])
    found = hac_mean(coefficients, 5)
    fit = sm.OLS(values, np.ones(200)).fit(cov_type="HAC", cov_kwds={"maxlags": 14})
    half = bartlett_critical(15 / 200) * float(fit.bse[0])
    assert found["dates"] == 200 and found["mean"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx((values.mean() - half, values.mean() + half))
    assert hac_mean(coefficients, 35)["low"] is None
    assert hac_mean(np.full(9, np.nan), 5) == {"mean": None, "low": None, "high": None, "dates": 0}


def test_intervals_of_dates_that_do_not_follow_each_other_hold_in_about_95_percent():
    """A third of the dates in short spells, of coefficients over 5 bars without skill."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(600):
        values = np.convolve(rng.normal(size=604), np.ones(5) / 5, "valid") / 10
        spells = np.repeat(rng.random(60) < 1 / 3, 10)
        found = hac_mean(np.where(spells, values, np.nan), 5)
        missed += not found["low"] <= 0 <= found["high"]
    assert 0.02 < missed / 600 < 0.09
