"""Integrated gradients against what can be worked out by hand."""

from __future__ import annotations

import pytest
import torch

from stockenh.evaluation.attribution import TOLERANCE, attribute, relative_gap

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

    told = []
    found = attribute(linear, inputs, baseline, steps=2, max_steps=2, advance=told.append)
    torch.testing.assert_close(found.price, (inputs[0] - baseline[0]) * price)
    torch.testing.assert_close(found.context, (inputs[2] - baseline[2]) * context)
    expected = ((inputs[1] - baseline[1]) * embedding).sum(1)
    torch.testing.assert_close(found.embedding, expected.double())
    assert (found.context[:, 1] == 0).all()
    assert found.baseline == pytest.approx(float(linear(*baseline)))
    torch.testing.assert_close(found.value, linear(*inputs).double())
    assert found.gap.max() < 1e-5 and sum(told) == K


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


def test_what_does_not_add_up_at_the_last_is_said_so():
    inputs = drawn(K)
    nothing = tuple(torch.zeros_like(x[:1]) for x in inputs)
    found = attribute(lambda p, e, c: torch.tanh(9 * c[:, 0]), inputs, nothing, steps=1, max_steps=3)
    assert found.gap.max() > TOLERANCE and found.steps.max() == 2


def test_the_gap_is_a_share_of_the_difference_or_of_their_mean():
    difference = torch.tensor([2.0, -4.0, 0.0])
    gap = relative_gap(difference + torch.tensor([0.1, 0.1, 0.1]), difference)
    assert gap.tolist() == pytest.approx([0.05, 0.025, 0.05])
    assert relative_gap(torch.tensor([1e-6]), torch.tensor([0.0])).tolist() == pytest.approx([0.01])
