"""Integrated gradients against what can be worked out by hand, and the figures of many windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockenh.evaluation.attribution import (
    TOLERANCE,
    Explained,
    attribute,
    by_importance,
    not_above_majority,
    relative_gap,
    weight_figures,
)

K, BARS, WIDTH, FEATURES = 20, 6, 4, 3


def drawn(rows: int, width: int = WIDTH, seed: int = 0):
    source = torch.Generator().manual_seed(seed)
    shapes = ((rows, BARS, 5), (rows, width), (rows, FEATURES))
    return tuple(torch.randn(shape, generator=source) for shape in shapes)


def test_a_linear_model_is_attributed_its_weights_times_the_way_from_the_baseline():
    inputs, baseline = drawn(K), drawn(1, seed=1)
    price, embedding, context = (x[0] for x in drawn(1, seed=2))
    context[1] = 0.0

    def linear(p, e, c):
        return (p * price).sum((1, 2)) + e @ embedding + c @ context + 0.5

    done = []
    found = attribute(linear, inputs, baseline, steps=2, max_steps=2, advance=done.append)
    torch.testing.assert_close(found.price, (inputs[0] - baseline[0]) * price)
    torch.testing.assert_close(found.context, (inputs[2] - baseline[2]) * context)
    expected = ((inputs[1] - baseline[1]) * embedding).sum(1)
    torch.testing.assert_close(found.embedding, expected.double())
    assert (found.context[:, 1] == 0).all()
    assert found.baseline == pytest.approx(float(linear(*baseline)))
    torch.testing.assert_close(found.value, linear(*inputs).double())
    assert found.gap.max() < 1e-5 and sum(done) == K


def test_a_product_is_shared_in_halves():
    inputs = drawn(K, width=0)
    nothing = tuple(torch.zeros_like(x[:1]) for x in inputs)
    found = attribute(lambda p, e, c: c[:, 0] * c[:, 1], inputs, nothing, steps=4, max_steps=4)
    half = inputs[2][:, 0] * inputs[2][:, 1] / 2
    torch.testing.assert_close(found.context, torch.stack([half, half, torch.zeros(K)], dim=1))
    assert not found.price.any() and not found.embedding.any()


def test_only_windows_that_do_not_add_up_are_integrated_again():
    inputs = drawn(K)
    nothing = tuple(torch.zeros_like(x[:1]) for x in inputs)
    points = []

    def steep(p, e, c):
        points.append(len(c))
        return torch.tanh(4 * c[:, 0])

    found = attribute(steep, inputs, nothing, steps=2, max_steps=256)
    assert found.gap.max() <= TOLERANCE
    assert found.steps.min() < found.steps.max() <= 256
    # each window once as it is, and the baseline, besides the points of the integrals of a window so far
    integrated = sum(2 ** (n + 1) * int((found.steps >= 2 ** (n + 1)).sum()) for n in range(8))
    assert sum(points) == K + 1 + integrated


def test_what_does_not_add_up_at_the_last_has_a_gap():
    inputs = drawn(K)
    nothing = tuple(torch.zeros_like(x[:1]) for x in inputs)
    found = attribute(lambda p, e, c: torch.tanh(9 * c[:, 0]), inputs, nothing, steps=1, max_steps=3)
    assert found.gap.max() > TOLERANCE and found.steps.max() == 2


def test_the_gap_is_a_share_of_the_difference_or_of_their_mean():
    difference = torch.tensor([2.0, -4.0, 0.0])
    gap = relative_gap(difference + torch.tensor([0.1, 0.1, 0.1]), difference)
    assert gap.tolist() == pytest.approx([0.05, 0.025, 0.05])
    assert relative_gap(torch.tensor([1e-6]), torch.tensor([0.0])).tolist() == pytest.approx([0.01])


GROUPS = {"close": "price", "volume": "price", "rsi": "technical"}


def test_sizes_are_means_of_absolute_values_and_groups_are_summed_first():
    price = [[[1, 2], [-3, 0]], [[1, -1], [1, -1]]]
    made = Explained(
        "up", 3, tuple(GROUPS), np.array([[-2.0, 2, 1], [2, -2, 3]]), np.array(price, float), np.zeros(2),
        0.25, np.array([0.001, 0.003]), np.array([64, 256]),
    )  # fmt: skip
    figures = made.figures(GROUPS)
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
