"""The generated market and its limit, against hand counts, enumeration and simulation."""

import time
from itertools import product
from statistics import NormalDist

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from stockenh.data.bars import CLOSE, Bars
from stockenh.data.features import FeatureSettings, context_features
from stockenh.data.readers import ReadSettings, read_bars
from stockenh.data.sources import synthetic
from stockenh.data.sources.synthetic import (
    SyntheticData,
    best_probabilities,
    filtered,
    generate,
    stationary,
    up_probability,
    walk,
)

HORIZONS = (3, 5, 10)
SMALL = SyntheticData(symbols=3, bars=400)


@pytest.fixture(scope="module")
def market():
    return generate(SyntheticData())


@pytest.fixture(scope="module")
def best(market):
    """(S, T, H) probabilities of the default market."""
    return best_probabilities(market, SyntheticData(), HORIZONS).reshape(30, 2000, 3)


def rises(bars, horizon):
    """(S, T - horizon) whether the close is higher `horizon` bars on."""
    close = bars.ohlcv[:, CLOSE].reshape(len(bars.symbols), -1)
    return close[:, horizon:] > close[:, :-horizon]


def deviations(figure):
    """How many standard errors the mean of (S, T) is from 0, blocks of 50 dates taken as independent."""
    by_date = figure.mean(0)
    blocks = by_date[: len(by_date) // 50 * 50].reshape(-1, 50).mean(1)
    return float(blocks.mean() / blocks.std(ddof=1) * len(blocks) ** 0.5)


def test_reading_its_bars_from_a_file_finds_nothing_to_say(market, tmp_path):
    names = np.array(market.symbols)[market.series_of_row]
    columns = dict(zip(("open", "high", "low", "close", "volume"), market.ohlcv.T, strict=True))
    days = market.time.astype("datetime64[ms]")
    pl.DataFrame({"symbol": names, "date": days, **columns}).write_parquet(tmp_path / "market.parquet")
    result = read_bars(tmp_path / "market.parquet", ReadSettings())
    assert result.findings == ()
    assert result.bars.digest() == market.digest()


def test_settings_decide_the_bits_and_more_symbols_or_bars_leave_those_that_there_are(market):
    assert generate(SMALL).digest() == "d06936ee412555dea60c0ee147fbe195"
    weekend = generate(SyntheticData(symbols=1, bars=5, start="2024-06-01"))
    assert str(weekend.time[0])[:10] == "2024-06-03"
    few, other = generate(SMALL), generate(SyntheticData(symbols=3, bars=400, seed=1))
    assert few.symbols == market.symbols[:3] == ("SYN001", "SYN002", "SYN003")
    assert str(few.time[0])[:10] == "2012-01-02"
    ohlcv = few.ohlcv.reshape(3, 400, 5)
    np.testing.assert_array_equal(ohlcv, market.ohlcv.reshape(30, 2000, 5)[:3, :400])
    assert not (ohlcv == other.ohlcv.reshape(3, 400, 5))[..., CLOSE].any()


def test_strength_sets_the_limit_and_without_it_there_is_nothing_to_know():
    noise = SyntheticData(symbols=10, bars=500, strength=0.0)
    bars = generate(noise)
    np.testing.assert_allclose(best_probabilities(bars, noise, HORIZONS), 0.5, atol=1e-12)
    returns = np.diff(np.log(bars.ohlcv[:, CLOSE].reshape(10, 500)), axis=1)
    scaled = returns / returns.std(1, keepdims=True)
    assert abs((scaled[:, 1:] * scaled[:, :-1]).mean()) < 4 / (10 * 499) ** 0.5
    limits = []
    for strength in (0.25, 0.5, 1.0, 2.0):
        settings = SyntheticData(symbols=10, bars=1000, strength=strength)
        best = best_probabilities(generate(settings), settings, [5])
        limits.append(np.maximum(best, 1 - best).mean())
    assert (np.diff(limits) > 0.05).all() and limits[0] > 0.52 and limits[-1] < 0.95


def test_the_limit_is_about_80_percent_at_5_bars_and_calibrated_in_every_tenth(market, best):
    limit = np.maximum(best, 1 - best)[:, 119:].mean((0, 1))
    assert limit[1] == pytest.approx(0.80, abs=0.01)
    for horizon in HORIZONS:
        assert 0.45 < rises(market, horizon)[:, 119:].mean() < 0.55
    up = rises(market, 5)
    p = best[:, : up.shape[1], 1]
    tenth = np.digitize(p, np.quantile(p, np.arange(0.1, 1, 0.1)))
    for inside in (tenth == k for k in range(10)):
        # a tenth holds 6,000 rows, of which overlapping labels leave about a third
        assert up[inside].mean() == pytest.approx(p[inside].mean(), abs=0.03)


@pytest.mark.parametrize("column", range(3))
def test_the_filters_own_score_is_the_limit(market, best, column):
    up = rises(market, HORIZONS[column])[:, 119:]
    p = best[:, 119 : 119 + up.shape[1], column]
    assert abs(deviations(((p > 0.5) == up) - np.maximum(p, 1 - p))) < 2.5
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert abs(deviations(-np.log(np.where(up, p, 1 - p)) - entropy)) < 2.5


def test_simulated_particles_agree_with_the_filter():
    """A bootstrap particle filter of the process as it is described, which shares nothing but constants."""
    bars = generate(SMALL)
    expected = best_probabilities(bars, SMALL, [5]).reshape(3, 400)[1]
    rng, n = np.random.default_rng(0), 20_000
    traits = synthetic._traits(SMALL, 2)
    log, volume = np.log(bars.ohlcv[400:800, :4]), np.log(bars.ohlcv[400:800, 4] / traits.volume)

    def move(trend, level):
        ends = rng.random(n) < np.array([1 / 25, 1 / 5, 1 / 25])[trend]
        trend = np.where(ends, (trend + rng.integers(1, 3, n)) % 3, trend)
        step = np.where(level == 0, 1, np.where(level == 3, -1, rng.choice([-1, 1], n)))
        return trend, np.where(rng.random(n) < 1 / 25, level + step, level)

    def spread(level):
        return traits.volatility * np.array([0.7, 0.9, 1.15, 1.45])[level]

    trend, level = rng.integers(0, 3, n), rng.integers(0, 4, n)
    for t in range(1, 150):
        trend, level = move(trend, level)
        sigma, (o, h, low, c) = spread(level), log[t]
        gap = o - log[t - 1, 3] - 0.64 * traits.volatility * (trend - 1)
        mean = 0.7 * np.log(sigma / traits.volatility) + 0.45 * (trend - 1) * np.where(level < 2, 1, -1)
        session = 0.7 * sigma**2
        weight = np.exp(
            -(gap**2) / (0.6 * sigma**2) - (c - o) ** 2 / (2 * session) - (volume[t] - mean) ** 2 / 0.245
        )
        weight *= np.exp(-2 * ((h - o) * (h - c) + (o - low) * (c - low)) / session) / sigma**6
        kept = rng.choice(n, n, p=weight / weight.sum())
        trend, level = trend[kept], level[kept]
        if t > 100 and t % 8 == 0:
            a, b, total = trend, level, np.zeros(n)
            for _ in range(5):
                a, b = move(a, b)
                total += 0.64 * traits.volatility * (a - 1) + spread(b) * rng.standard_normal(n)
            assert (total > 0).mean() == pytest.approx(expected[t], abs=0.02)


def test_volume_carries_a_part_of_the_signal(market, best, monkeypatch):
    monkeypatch.setattr(synthetic, "VOLUME_NOISE", 1e6)  # the filter that looks at prices alone
    blind = best_probabilities(market, SyntheticData(), [5]).reshape(30, 2000)
    up = rises(market, 5)
    hits = [((p[:, :-5] > 0.5) == up)[:, 119:].mean() for p in (blind, best[:, :, 1])]
    assert hits[1] - hits[0] > 0.01


def test_volatility_comes_in_clusters_that_all_symbols_share(market):
    moves = np.abs(np.diff(np.log(market.ohlcv[:, CLOSE].reshape(30, 2000)), axis=1))
    by_day = (moves / moves.mean(1, keepdims=True)).mean(0) - 1
    assert np.corrcoef(by_day[1:], by_day[:-1])[0, 1] > 0.5
    assert np.corrcoef(by_day[100:], by_day[:-100])[0, 1] < 0.3


@pytest.mark.parametrize("t", [130, 398])
def test_the_limit_at_a_bar_is_blind_to_later_bars(t):
    bars = generate(SMALL)
    before = best_probabilities(bars, SMALL, HORIZONS).reshape(3, 400, 3)
    changed = bars.ohlcv.reshape(3, 400, 5).copy()
    changed[:, t + 1 :] *= np.random.default_rng(t).uniform(0.5, 2, (3, 399 - t, 1))
    other = Bars(bars.symbols, bars.offsets, bars.time, changed.reshape(-1, 5))
    after = best_probabilities(other, SMALL, HORIZONS).reshape(3, 400, 3)
    assert before[:, : t + 1].tobytes() == after[:, : t + 1].tobytes()
    assert (before[:, t + 1 :] != after[:, t + 1 :]).any(-1).all()


def test_what_a_model_sees_holds_most_of_the_signal(market, best):
    """A logistic regression on the 29 features alone closes over half of the gap on later dates."""
    context = context_features(market, FeatureSettings()).reshape(30, 2000, 29)
    up = rises(market, 5)
    train, test = slice(119, 1420), slice(1700, 1995)
    scaler = StandardScaler().fit(context[:, train].reshape(-1, 29))
    seen, unseen = (scaler.transform(context[:, part].reshape(-1, 29)) for part in (train, test))
    model = LogisticRegression(max_iter=300).fit(seen, up[:, train].ravel())
    later = up[:, test].ravel()
    majority = max(later.mean(), 1 - later.mean())
    limit = np.maximum(best, 1 - best)[:, test, 1].mean()
    closed = (model.score(unseen, later) - majority) / (limit - majority)
    assert 0.6 < closed < 0.95


def test_it_is_generated_quickly():
    settings, start = SyntheticData(symbols=20, bars=3000), time.process_time()
    best_probabilities(generate(settings), settings, HORIZONS)
    assert time.process_time() - start < 2


TWO = np.array([[0.9, 0.1], [0.3, 0.7]])
THREE = np.array([[0.8, 0.15, 0.05], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
MEAN = np.array([-0.5, 0.1, 0.8])
DEVIATION = np.array([0.6, 1.0, 1.5])
phi = NormalDist().cdf


def test_a_chain_goes_where_its_numbers_say_and_its_series_are_filtered_apart():
    # 0.1 of the first go over, 0.3 of the second come back: three to one
    np.testing.assert_allclose(stationary(TWO), [0.75, 0.25], atol=1e-14)
    # first below 0.75: state 0; 0.95 leaves it, 0.5 stays in state 1, 0.2 goes back, 0.89 stays
    assert walk(TWO, np.array([0.7, 0.95, 0.5, 0.2, 0.89])).tolist() == [0, 1, 1, 0, 0]
    assert walk(TWO, np.array([0.76])).tolist() == [1]
    evidence = np.random.default_rng(4).normal(0, 2, (6, 2, 3))
    both = filtered(evidence, THREE)
    for series in range(2):
        alone = filtered(evidence[:, series : series + 1] + 5000.0, THREE)[:, 0]
        np.testing.assert_allclose(both[:, series], alone, rtol=1e-9)
    neighbours = np.array([[0.9, 0.1, 0], [0.1, 0.8, 0.1], [0, 0.1, 0.9]])
    evidence = np.array([[0.0, -1e4, -1e4], [-1e4, -1e4, 0.0], [-1e4, 0.0, -1e4]])[:, None]
    beliefs = filtered(evidence, neighbours)
    assert np.isfinite(beliefs).all()
    np.testing.assert_allclose(beliefs.sum(-1), 1)


def test_the_filter_equals_bayes_over_all_paths():
    evidence = np.random.default_rng(3).normal(0, 2, (5, 3))
    by_hand = np.zeros((5, 3))
    for t in range(5):
        for path in product(range(3), repeat=t + 1):
            chance = stationary(THREE)[path[0]] * np.exp(evidence[0, path[0]])
            for bar in range(1, t + 1):
                chance *= THREE[path[bar - 1], path[bar]] * np.exp(evidence[bar, path[bar]])
            by_hand[t, path[-1]] += chance
    by_hand /= by_hand.sum(1, keepdims=True)
    np.testing.assert_allclose(filtered(evidence[:, None], THREE)[:, 0], by_hand, rtol=1e-10)


@pytest.mark.parametrize("horizon", [1, 3, 10, 60])
def test_one_state_gives_the_normal_distribution(horizon):
    up = up_probability(np.ones((1, 1)), np.array([0.3]), np.array([1.2]), [horizon])
    assert up[0, 0] == pytest.approx(phi(0.3 / 1.2 * horizon**0.5), abs=1e-10)


def test_two_bars_are_the_mixture_of_their_paths_and_more_agree_with_a_simulation():
    mean, deviation = np.array([1.0, -0.5]), np.array([1.0, 2.0])
    by_hand = [
        sum(
            TWO[now, a] * TWO[a, b] * phi((mean[a] + mean[b]) / np.hypot(deviation[a], deviation[b]))
            for a, b in product(range(2), repeat=2)
        )
        for now in range(2)
    ]
    np.testing.assert_allclose(up_probability(TWO, mean, deviation, [2])[:, 0], by_hand, atol=1e-10)
    rng = np.random.default_rng(5)
    up = up_probability(THREE, MEAN, DEVIATION, [3, 10])
    for now in range(3):
        paths = 40_000
        state, total, seen = np.full(paths, now), np.zeros(paths), {}
        for bar in range(1, 11):
            draw = rng.random(paths)[:, None]
            state = (draw > THREE.cumsum(1)[state]).sum(1)
            total += rng.normal(MEAN[state], DEVIATION[state])
            seen[bar] = (total > 0).mean()
        # four standard errors of a share over 40,000 paths
        np.testing.assert_allclose(up[now], [seen[3], seen[10]], atol=4 * 0.5 / paths**0.5)
