"""An evaluation from arrays: pure noise, missing labels, known limits, short parts, implausible scores."""

import json

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.metrics import Forecast
from stockenh.evaluation.summary import Part, coverage_by_rule, evaluate_part, implausible

DAY = np.datetime64("2020-01-01")


def overlapping(rng: np.random.Generator, dates: int, symbols: int, horizons: tuple[int, ...]) -> np.ndarray:
    """Returns of random walks with a common part, as labels have them: row by row of (date, symbol)."""
    steps = sum(rng.normal(0, 0.01, (dates + max(horizons), n)) for n in (1, symbols))
    walk = np.concatenate([np.zeros((1, symbols)), steps.cumsum(0)])
    labels = [(walk[h : h + dates] - walk[:dates]).ravel() for h in horizons]
    return np.stack(labels, 1)


def part_of(y_ret: np.ndarray, symbols: int, horizons: tuple[int, ...], best=None) -> Part:
    asof = np.repeat(DAY + np.arange(len(y_ret) // symbols), symbols)
    return Part(asof, y_ret, horizons, best)


def guesses(rng: np.random.Generator, y_ret: np.ndarray) -> list[Forecast]:
    made = []
    for _ in y_ret.T:
        prob, ret = rng.uniform(0.3, 0.7, len(y_ret)), rng.normal(0, 0.001, len(y_ret))
        made.append(Forecast(prob, prob, ret, ret))
    return made


def test_on_pure_noise_intervals_cover_what_they_should_and_nothing_beats_the_majority():
    covered, beaten, above = [], [], []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        y_ret = overlapping(rng, 400, 2, (5,))
        up = Forecast(np.full(len(y_ret), 0.6))
        names = {"model": guesses(rng, y_ret), "majority": [up]}
        found = evaluate_part(part_of(y_ret, 2, (5,)), names, Resampling(resamples=300, seed=seed))["h5"]
        f, against = found["forecasts"], found["against"]["model"]["majority"]["accuracy"]
        covered += [f[name]["accuracy_low"] <= 0.5 <= f[name]["accuracy_high"] for name in names]
        covered += [f["model"]["auc_low"] <= 0.5 <= f["model"]["auc_high"]]
        covered += [against["low"] <= 0 <= against["high"]]
        beaten.append(against["p"] < 0.05)
        above.append(found["p_majority"]["model"] < 0.05)
        # a forecast that is the same for all is right as often as the market rises
        assert f["majority"]["accuracy"] == pytest.approx(found["up_share"])
        assert found["majority"] == max(found["up_share"], 1 - found["up_share"])
        assert f["majority"]["ic"] is None and "limit_accuracy" not in found
        json.dumps(found, allow_nan=False)
    assert np.mean(covered) > 0.85
    assert np.mean(beaten) < 0.25 and not any(above)


def test_rows_without_a_label_do_not_count():
    rng = np.random.default_rng(0)
    y_ret = overlapping(rng, 100, 2, (1, 2))
    y_ret[-20:, 1] = np.nan
    names = {"model": guesses(rng, y_ret)}
    found = evaluate_part(part_of(y_ret, 2, (1, 2)), names, Resampling())
    assert found["h1"]["n"] == 200 and found["h2"]["n"] == 180 and found["h2"]["dates"] == 90
    kept = Part(part_of(y_ret, 2, (1, 2)).asof[:180], y_ret[:180, 1:], (2,))
    alone = evaluate_part(kept, {"model": [names["model"][1].take(np.arange(180))]}, Resampling())
    assert alone["h2"] == found["h2"]


def test_a_known_limit_stands_beside_and_the_gap_is_what_summary_says():
    rng = np.random.default_rng(0)
    best = rng.uniform(0, 1, (4000, 1))
    y_ret = np.where(rng.random((4000, 1)) < best, 0.01, -0.01)
    prob = best[:, 0]
    perfect = [Forecast(prob, prob)]
    part = part_of(y_ret, 4, (3,), best)
    found = evaluate_part(part, {"model": perfect, "best possible": perfect}, Resampling())["h3"]
    assert found["limit_accuracy"] == pytest.approx(0.75, abs=0.01)
    assert found["forecasts"]["model"]["gap_closed"] == pytest.approx(1, abs=0.06)
    assert found["forecasts"]["model"]["accuracy_low"] < 0.75 < found["forecasts"]["model"]["accuracy_high"]
    assert found["p_majority"]["model"] == pytest.approx(1 / 1001)


def test_an_implausible_accuracy_is_one_above_65_percent_and_above_the_majority():
    def of(accuracy, majority):
        return {"forecasts": {"model": {"accuracy": accuracy}}, "majority": majority}

    assert implausible({"h3": of(0.66, 0.55), "h5": of(0.64, 0.5), "h10": of(0.70, 0.72)}) == ["h3"]
    assert implausible({"h3": of(None, None)}) == []


def test_coverage_is_per_rule_and_horizon_on_its_own_labels():
    rng = np.random.default_rng(0)
    y_ret = overlapping(rng, 100, 2, (1, 2))
    y_ret[-20:, 1] = np.nan
    prob, spread = rng.random((200, 2)), rng.random((200, 2))
    part = part_of(y_ret, 2, (1, 2))
    found = coverage_by_rule(part, prob, spread, Resampling())
    right = (prob[:, 0] > 0.5) == (y_ret[:, 0] > 0)
    for rule, least in (("margin", -abs(prob - 0.5)), ("spread", spread)):
        assert found[rule]["h1"][-1]["n"] == 200 and found[rule]["h2"][-1]["n"] == 180
        assert found[rule]["h1"][-1]["accuracy"] == pytest.approx(right.mean())
        tenth = least[:, 0].argsort()[:20]
        assert found[rule]["h1"][0]["accuracy"] == pytest.approx(right[tenth].mean())
    assert list(coverage_by_rule(part, prob, None, Resampling())) == ["margin"]


def test_the_rank_ic_is_compared_on_paired_dates():
    rng = np.random.default_rng(5)
    y_ret = rng.normal(size=(200 * 8, 1))
    good, noise = (y_ret + scale * rng.normal(size=y_ret.shape) for scale in (1.0, 20.0))
    signals = {"model": good, "boosting": noise, "majority": np.zeros_like(y_ret)}
    forecasts = {
        name: [Forecast(np.full(len(y_ret), 0.6), np.full(len(y_ret), 0.6), None, signal[:, 0])]
        for name, signal in signals.items()
    }
    found = evaluate_part(part_of(y_ret, 8, (1,)), forecasts, Resampling(resamples=200))["h1"]
    difference = found["rank_ic_against"]["boosting"]
    ics = [found["forecasts"][name]["rank_ic"]["mean"] for name in ("model", "boosting")]
    assert difference["mean"] == pytest.approx(ics[0] - ics[1])
    assert 0 < difference["low"] < difference["mean"] < difference["high"]
    assert list(found["rank_ic_against"]) == ["boosting"]  # a constant ranks nothing
