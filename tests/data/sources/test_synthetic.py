"""The generated market: its bars are valid, its limit is the true one, and its signal can be learnt."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from stockenh.config.schema import settings_of
from stockenh.data.bars import CLOSE, Bars
from stockenh.data.features import FeatureSettings, context_features
from stockenh.data.readers import ReadSettings, read_bars
from stockenh.data.sources import synthetic
from stockenh.data.sources.synthetic import SyntheticData, best_probabilities, generate
from stockenh.errors import ConfigError

HORIZONS = (3, 5, 10)
SMALL = SyntheticData(symbols=3, bars=400)


@pytest.fixture(scope="module")
def market() -> Bars:
    return generate(SyntheticData())


@pytest.fixture(scope="module")
def best(market: Bars) -> np.ndarray:
    """(S, T, H) probabilities of the default market."""
    return best_probabilities(market, SyntheticData(), HORIZONS).reshape(30, 2000, 3)


def rises(bars: Bars, horizon: int) -> np.ndarray:
    """(S, T - horizon) whether the close is higher `horizon` bars on."""
    close = bars.ohlcv[:, CLOSE].reshape(len(bars.symbols), -1)
    return close[:, horizon:] > close[:, :-horizon]


def deviations(figure: np.ndarray) -> float:
    """How many standard errors the mean of (S, T) is from 0, blocks of 50 dates taken as independent."""
    by_date = figure.mean(0)
    blocks = by_date[: len(by_date) // 50 * 50].reshape(-1, 50).mean(1)
    return float(blocks.mean() / blocks.std(ddof=1) * len(blocks) ** 0.5)


def test_reading_its_bars_from_a_file_finds_nothing_to_say(market: Bars, tmp_path: Path) -> None:
    names = np.array(market.symbols)[market.series_of_row]
    columns = dict(zip(("open", "high", "low", "close", "volume"), market.ohlcv.T, strict=True))
    days = market.time.astype("datetime64[ms]")
    pl.DataFrame({"symbol": names, "date": days, **columns}).write_parquet(tmp_path / "market.parquet")
    result = read_bars(tmp_path / "market.parquet", ReadSettings())
    assert result.findings == ()
    assert result.bars.digest() == market.digest()


def test_the_same_settings_give_the_same_bits_and_a_weekend_starts_on_monday() -> None:
    assert generate(SMALL).digest() == "d06936ee412555dea60c0ee147fbe195"
    weekend = SyntheticData(symbols=1, bars=5, start="2024-06-01")
    assert str(generate(weekend).time[0])[:10] == "2024-06-03"


def test_more_symbols_or_bars_leave_those_that_there_are(market: Bars) -> None:
    few, other = generate(SMALL), generate(SyntheticData(symbols=3, bars=400, seed=1))
    assert few.symbols == market.symbols[:3] == ("SYN001", "SYN002", "SYN003")
    for series in range(3):
        start = 2000 * series
        np.testing.assert_array_equal(few.ohlcv[few.rows(series)], market.ohlcv[start : start + 400])
        assert not (few.ohlcv[few.rows(series), CLOSE] == other.ohlcv[few.rows(series), CLOSE]).any()
    assert str(few.time[0])[:10] == "2012-01-02"


def test_without_strength_there_is_nothing_to_know() -> None:
    noise = SyntheticData(symbols=10, bars=500, strength=0.0)
    bars = generate(noise)
    np.testing.assert_allclose(best_probabilities(bars, noise, HORIZONS), 0.5, atol=1e-12)
    returns = np.diff(np.log(bars.ohlcv[:, CLOSE].reshape(10, 500)), axis=1)
    scaled = returns / returns.std(1, keepdims=True)
    assert abs((scaled[:, 1:] * scaled[:, :-1]).mean()) < 4 / (10 * 499) ** 0.5


def test_the_limit_is_about_80_percent_at_5_bars_and_the_classes_are_balanced(
    market: Bars, best: np.ndarray
) -> None:
    limit = np.maximum(best, 1 - best)[:, 119:].mean((0, 1))
    assert limit[1] == pytest.approx(0.80, abs=0.01)
    for horizon in HORIZONS:
        assert 0.45 < rises(market, horizon)[:, 119:].mean() < 0.55


def test_strength_sets_the_limit() -> None:
    limits = []
    for strength in (0.25, 0.5, 1.0, 2.0):
        settings = SyntheticData(symbols=10, bars=1000, strength=strength)
        best = best_probabilities(generate(settings), settings, [5])
        limits.append(np.maximum(best, 1 - best).mean())
    assert (np.diff(limits) > 0.05).all() and limits[0] > 0.52 and limits[-1] < 0.95


@pytest.mark.parametrize("column", range(3))
def test_the_filters_own_score_is_the_limit(market: Bars, best: np.ndarray, column: int) -> None:
    up = rises(market, HORIZONS[column])[:, 119:]
    p = best[:, 119 : 119 + up.shape[1], column]
    assert abs(deviations(((p > 0.5) == up) - np.maximum(p, 1 - p))) < 2.5
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert abs(deviations(-np.log(np.where(up, p, 1 - p)) - entropy)) < 2.5


def test_its_probabilities_are_calibrated_in_every_tenth(market: Bars, best: np.ndarray) -> None:
    up = rises(market, 5)
    p = best[:, : up.shape[1], 1]
    tenth = np.digitize(p, np.quantile(p, np.arange(0.1, 1, 0.1)))
    for inside in (tenth == k for k in range(10)):
        # a tenth holds 6,000 rows, of which overlapping labels leave about a third
        assert up[inside].mean() == pytest.approx(p[inside].mean(), abs=0.03)


def test_simulated_particles_agree_with_the_filter() -> None:
    """A bootstrap particle filter of the process as it is described, which shares nothing but constants."""
    bars = generate(SMALL)
    expected = best_probabilities(bars, SMALL, [5]).reshape(3, 400)[1]
    rng, n = np.random.default_rng(0), 20_000
    traits = synthetic._traits(SMALL, 2)
    log, volume = np.log(bars.ohlcv[400:800, :4]), np.log(bars.ohlcv[400:800, 4] / traits.volume)

    def move(trend: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = rng.random(n) < np.array([1 / 25, 1 / 5, 1 / 25])[trend]
        trend = np.where(ends, (trend + rng.integers(1, 3, n)) % 3, trend)
        step = np.where(level == 0, 1, np.where(level == 3, -1, rng.choice([-1, 1], n)))
        return trend, np.where(rng.random(n) < 1 / 25, level + step, level)

    def spread(level: np.ndarray) -> np.ndarray:
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


def test_volume_carries_a_part_of_the_signal(
    market: Bars, best: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "VOLUME_NOISE", 1e6)  # the filter that looks at prices alone
    blind = best_probabilities(market, SyntheticData(), [5]).reshape(30, 2000)
    up = rises(market, 5)
    hits = [((p[:, :-5] > 0.5) == up)[:, 119:].mean() for p in (blind, best[:, :, 1])]
    assert hits[1] - hits[0] > 0.01


def test_volatility_comes_in_clusters_that_all_symbols_share(market: Bars) -> None:
    moves = np.abs(np.diff(np.log(market.ohlcv[:, CLOSE].reshape(30, 2000)), axis=1))
    moves /= moves.mean(1, keepdims=True)
    by_day = moves.mean(0) - 1
    assert np.corrcoef(by_day[1:], by_day[:-1])[0, 1] > 0.5
    assert np.corrcoef(by_day[100:], by_day[:-100])[0, 1] < 0.3


@pytest.mark.parametrize("t", [130, 398])
def test_the_limit_at_a_bar_is_blind_to_later_bars(t: int) -> None:
    bars = generate(SMALL)
    before = best_probabilities(bars, SMALL, HORIZONS).reshape(3, 400, 3)
    changed = bars.ohlcv.reshape(3, 400, 5).copy()
    changed[:, t + 1 :] *= np.random.default_rng(t).uniform(0.5, 2, (3, 399 - t, 1))
    other = Bars(bars.symbols, bars.offsets, bars.time, changed.reshape(-1, 5))
    after = best_probabilities(other, SMALL, HORIZONS).reshape(3, 400, 3)
    assert before[:, : t + 1].tobytes() == after[:, : t + 1].tobytes()
    assert (before[:, t + 1 :] != after[:, t + 1 :]).any(-1).all()


def test_what_a_model_sees_holds_most_of_the_signal(market: Bars, best: np.ndarray) -> None:
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


def test_it_is_generated_quickly() -> None:
    settings = SyntheticData(symbols=20, bars=3000)
    start = time.process_time()
    best_probabilities(generate(settings), settings, HORIZONS)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"symbols": 0}, r"data\.symbols=0 must be at least 1"),
        ({"bars": 0}, r"data\.bars=0 must be at least 1"),
        ({"seed": -1}, r"data\.seed=-1 must be at least 0"),
        ({"strength": -0.1}, r"data\.strength=-0\.1 must be at least 0"),
        ({"strength": float("nan")}, r"data\.strength=nan"),
        ({"start": "2012"}, r"data\.start=2012 is not a date"),
        ({"start": "2012-13-01"}, r"data\.start=2012-13-01 is not a date"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of("data", SyntheticData, settings)
