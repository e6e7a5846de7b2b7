"""Figures of many windows' attributions and weights, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stockenh.evaluation.attribution import Explained, by_importance, not_above_majority, weight_figures

GROUPS = {"close": "price", "volume": "price", "rsi": "technical"}


def explained(inputs, price) -> Explained:
    k = len(inputs)
    return Explained(
        output="up",
        horizon=3,
        names=tuple(GROUPS),
        inputs=np.array(inputs, float),
        price=np.array(price, float),
        value=np.zeros(k),
        baseline=0.25,
        gap=np.array([0.001, 0.003]),
        steps=np.array([64, 256]),
    )


def test_sizes_are_means_of_absolute_values_and_groups_are_summed_first():
    price = [[[1, 2], [-3, 0]], [[1, -1], [1, -1]]]
    figures = explained([[-2, 2, 1], [2, -2, 3]], price).figures(GROUPS)
    assert figures["inputs"]["close"] == {"size": 2.0, "mean": 0.0}
    assert figures["inputs"]["rsi"] == {"size": 2.0, "mean": 2.0}
    assert figures["groups"] == {
        "price": {"size": 0.0, "mean": 0.0},  # what its series add cancels in both windows
        "technical": {"size": 2.0, "mean": 2.0},
    }
    assert figures["price_by_bar"] == {"close": [1.0, 2.0], "volume": [1.5, 0.5]}
    assert figures["completeness"] == {"worst": 0.003, "mean": pytest.approx(0.002), "most_steps": 256}
    assert figures["baseline"] == 0.25


def test_importance_weighs_horizons_alike():
    def of(**sizes):
        return {"inputs": {name: {"size": size} for name, size in sizes.items()}}

    # a has shares 0.6 and 0.4, b 0.3 and 0.5, though b's sizes sum to more
    targets = {"h3": of(a=0.06, b=0.03, c=0.01), "h10": of(a=4.0, b=5.0, c=1.0)}
    assert by_importance(targets) == ["a", "b", "c"]
    assert by_importance({"h3": of(a=0.0, b=0.0)}) == ["a", "b"]


def test_weights_are_means_over_bars_then_spread_over_windows():
    close = np.linspace(0, 1, 11)
    price = np.stack([np.stack([close, close + 0.2], 1), 1 - np.stack([close, close + 0.2], 1)], 2)
    attention = np.stack([close, 1 - close], 1)
    figures = weight_figures(price, np.ones((11, 1)), attention, ["embedding"], ["close", "volume"])
    assert figures["price"]["close"] == pytest.approx({"mean": 0.6, "low": 0.2, "high": 1.0})
    assert figures["static"] == {"embedding": {"mean": 1.0, "low": 1.0, "high": 1.0}}
    assert figures["attention"]["low"] == pytest.approx([0.1, 0.1])
    assert figures["price_by_bar"]["close"] == pytest.approx([0.5, 0.7])


@pytest.mark.parametrize(
    ("low", "majority", "noise"),
    [(0.56, 0.55, []), (0.55, 0.55, ["h3"]), (0.50, 0.55, ["h3"]), (None, 0.55, ["h3"]), (0.5, None, ["h3"])],
)
def test_noise_is_where_the_interval_does_not_lie_above_the_majority(low, majority, noise):
    assert not_above_majority({"h3": {"accuracy_low": low, "majority": majority}}) == noise
