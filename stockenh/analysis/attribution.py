"""Integrated gradients: what each input adds to a forecast, compared with an input that says nothing.

Legend: k windows, T bars, E embedding width, F context features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

# What maps x_price (k, T, 5), x_kron (k, E) and x_ctx (k, F) to one number per window (k,).
Scalar = Callable[[Tensor, Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]

TOLERANCE = 0.01
# Differences below this, in logits or train standard deviations, are rounding and nothing to explain.
SMALLEST = 1e-4
PASS = 256  # points of the path in one forward and backward
TOGETHER = 16  # windows integrated at once


@dataclass(frozen=True)
class Attribution:
    """What each input adds to one output of a model, for k windows; the sum is value - baseline.

    price:     (k, T, 5)
    embedding: (k,) the embedding as one, as large as the sum over its numbers
    context:   (k, F)
    value:     (k,) the output; baseline: the output for the baseline
    gap:       (k,) how far the sum is from value - baseline: see `relative_gap`
    steps:     (k,) of the integral that was taken last
    """

    price: Tensor
    embedding: Tensor
    context: Tensor
    value: Tensor
    baseline: float
    gap: Tensor
    steps: Tensor


def has_captum() -> bool:
    """Whether the library is there that integrates."""
    return find_spec("captum") is not None


def attribute(
    function: Scalar,
    inputs: Inputs,
    baseline: Inputs,
    *,
    steps: int,
    max_steps: int,
    advance: Callable[[int], None] = lambda windows: None,
) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) of `function`, by Gauss-Legendre quadrature.

    Input i gets (x_i - x'_i) times the mean of the function's slope in i on the straight way from the
    baseline x' to x. Windows whose attributions don't add up to value - baseline within 1% are integrated
    again with twice the steps, up to `max_steps`; `gap` says how far they then are. baseline: one window.
    advance: told the number of windows after each portion of the first integral.
    """
    with torch.no_grad():
        value = torch.cat([function(*(x[c] for x in inputs)) for c in _portions(inputs, PASS)]).double()
        start = function(*baseline).double()
    found = tuple(torch.zeros_like(x) for x in inputs)
    taken = torch.zeros(len(value), dtype=torch.int64)
    gap = torch.full_like(value, torch.inf)
    pending, first = torch.arange(len(value)), True
    while len(pending) and steps <= max_steps:
        for chunk in pending.split(TOGETHER):
            parts = _integrate(function, tuple(x[chunk] for x in inputs), baseline, steps)
            for whole, part in zip(found, parts, strict=True):
                whole[chunk] = part
            if first:
                advance(len(chunk))
        taken[pending] = steps
        gap = relative_gap(_sum(found), value - start)
        pending = pending[gap.cpu()[pending] > TOLERANCE]
        steps, first = 2 * steps, False
    price, embedding, context = found
    return Attribution(price, embedding.double().sum(1), context, value, float(start), gap.cpu(), taken)


def relative_gap(total: Tensor, difference: Tensor) -> Tensor:
    """|total - difference| as a share of |difference|, or of its mean over windows where that is larger.

    total, difference: (k,). A window whose forecast is the baseline's has nothing to take a share of.
    """
    size = difference.abs()
    return (total - difference).abs() / size.clamp(min=max(float(size.mean()), SMALLEST))


def _integrate(function: Scalar, inputs: tuple[Tensor, ...], baseline: Inputs, steps: int) -> list[Tensor]:
    """Attributions in the shapes of the inputs, zero for an input of no width."""
    from captum.attr import IntegratedGradients

    there = [i for i, x in enumerate(inputs) if x.shape[1]]

    def of_given(*given: Tensor) -> Tensor:
        whole = [x.expand(len(given[0]), *x.shape[1:]) for x in baseline]
        for i, x in zip(there, given, strict=True):
            whole[i] = x
        # autograd refuses an input that the function leaves aside: so each is in the result, times 0
        touched = torch.stack([x.flatten(1).sum(1) for x in given]).sum(0)
        return function(*whole) + 0 * touched

    parts = [torch.zeros_like(x) for x in inputs]
    # cuDNN has no backward of an LSTM in evaluation mode
    with torch.backends.cudnn.flags(enabled=False):
        made = IntegratedGradients(of_given).attribute(
            tuple(inputs[i].clone().requires_grad_() for i in there),
            baselines=tuple(baseline[i] for i in there),
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=PASS,
        )
    for i, part in zip(there, made, strict=True):
        parts[i] = part.detach().to(parts[i].dtype)
    return parts


def _portions(inputs: Inputs, size: int) -> list[Tensor]:
    return list(torch.arange(len(inputs[0])).split(size))


def _sum(found: tuple[Tensor, ...]) -> Tensor:
    """(k,) over all inputs."""
    return torch.stack([x.double().flatten(1).sum(1) for x in found]).sum(0)
