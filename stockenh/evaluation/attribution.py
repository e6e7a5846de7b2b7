"""Integrated gradients: what each input adds to a forecast, compared with a baseline input.

Legend: k windows, T bars, S price series, E embedding width, F context features, V named inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Maps x_price (k, T, S), x_embedding (k, E) and x_ctx (k, F) to one number per window (k,).
Scalar = Callable[[Tensor, Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]
Floats = NDArray[np.floating]

TOLERANCE = 0.01
# Differences below this, in logits or train standard deviations, are rounding and nothing to explain.
SMALLEST = 1e-4
PASS = 256  # points of the path in one forward and backward
CHUNK = 16  # windows integrated at once
QUANTILES = (0.1, 0.9)  # over windows, which spreads are given as


@dataclass(frozen=True)
class Attribution:
    """What each input adds to one output of a model, for k windows; the sum is value - baseline.

    price:     (k, T, S)
    embedding: (k,) the sum over the embedding's numbers
    context:   (k, F)
    value:     (k,) the output; baseline: the output for the baseline
    gap:       (k,) how far the sum is from value - baseline: see `relative_gap`
    steps:     (k,) of the last integral
    """

    price: Tensor
    embedding: Tensor
    context: Tensor
    value: Tensor
    baseline: float
    gap: Tensor
    steps: Tensor


def has_captum() -> bool:
    """Whether the library that integrates is installed."""
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

    Input i gets (x_i - x'_i) times the mean of the function's slope in i on the straight line from the
    baseline x' to x. Windows whose attributions don't add up to value - baseline within 1% are integrated
    again with twice the steps, up to `max_steps`; `gap` is how far they then are. baseline: one window.
    advance: called with the number of windows after each chunk of the first integral.
    """
    with torch.no_grad():
        chunks = zip(*(x.split(PASS) for x in inputs), strict=True)
        value = torch.cat([function(*chunk) for chunk in chunks]).double()
        start = function(*baseline).double()
    found = tuple(torch.zeros_like(x) for x in inputs)
    taken = torch.zeros(len(value), dtype=torch.int64)
    gap = torch.full_like(value, torch.inf)
    pending, first = torch.arange(len(value)), True
    while len(pending) and steps <= max_steps:
        for chunk in pending.split(CHUNK):
            parts = _integrate(function, tuple(x[chunk] for x in inputs), baseline, steps)
            for whole, part in zip(found, parts, strict=True):
                whole[chunk] = part
            if first:
                advance(len(chunk))
        taken[pending] = steps
        total = torch.stack([x.double().flatten(1).sum(1) for x in found]).sum(0)
        gap = relative_gap(total, value - start)
        pending = pending[gap.cpu()[pending] > TOLERANCE]
        steps, first = 2 * steps, False
    price, embedding, context = found
    return Attribution(price, embedding.double().sum(1), context, value, float(start), gap.cpu(), taken)


def relative_gap(total: Tensor, difference: Tensor) -> Tensor:
    """|total - difference| as a share of |difference|, or of its mean over windows where that is larger.

    total, difference: (k,). A window whose forecast equals the baseline's has no difference of its own.
    """
    size = difference.abs()
    return (total - difference).abs() / size.clamp(min=max(float(size.mean()), SMALLEST))


def _integrate(function: Scalar, inputs: tuple[Tensor, ...], baseline: Inputs, steps: int) -> list[Tensor]:
    """Attributions in the shapes of the inputs, zero for an input of no width."""
    from captum.attr import IntegratedGradients

    used = [i for i, x in enumerate(inputs) if x.shape[1]]

    def of_used(*given: Tensor) -> Tensor:
        whole = [x.expand(len(given[0]), *x.shape[1:]) for x in baseline]
        for i, x in zip(used, given, strict=True):
            whole[i] = x
        # autograd refuses an input that the function ignores: so each is in the result, times 0
        touched = torch.stack([x.flatten(1).sum(1) for x in given]).sum(0)
        return function(*whole) + 0 * touched

    parts = [torch.zeros_like(x) for x in inputs]
    # cuDNN has no backward of an LSTM in evaluation mode
    with torch.backends.cudnn.flags(enabled=False):
        integrated = IntegratedGradients(of_used).attribute(
            tuple(inputs[i].clone().requires_grad_() for i in used),
            baselines=tuple(baseline[i] for i in used),
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=PASS,
        )
    for i, part in zip(used, integrated, strict=True):
        parts[i] = part.detach().to(parts[i].dtype)
    return parts


@dataclass(frozen=True)
class Explained:
    """What the named inputs add to one output at one horizon, in the units of a forecast.

    inputs: (k, V) attributions; price: (k, T, S) those of the price series by bar
    value:  (k,) the forecast; baseline: the forecast for the baseline
    gap:    (k,) see `relative_gap`; steps: (k,)
    """

    output: str
    horizon: int
    names: tuple[str, ...]
    inputs: Floats
    price: Floats
    value: Floats
    baseline: float
    gap: Floats
    steps: NDArray[np.int64]

    def figures(self, groups: Mapping[str, str]) -> dict[str, Any]:
        """As in explain.json. groups: the group of each named input.

        An input's `size` is the mean over windows of its attribution's absolute value, `mean` that of the
        attribution itself; a group's attribution in a window is the sum over its inputs.
        """
        summed: dict[str, Floats] = {}
        for name, column in zip(self.names, self.inputs.T, strict=True):
            summed[groups[name]] = summed.get(groups[name], 0.0) + column
        series = self.names[: self.price.shape[2]]
        by_bar = np.abs(self.price).mean(0)
        return {
            "baseline": self.baseline,
            "completeness": {
                "worst": float(self.gap.max()),
                "mean": float(self.gap.mean()),
                "most_steps": int(self.steps.max()),
            },
            "groups": {group: _size_and_mean(total) for group, total in summed.items()},
            "inputs": {name: _size_and_mean(self.inputs[:, i]) for i, name in enumerate(self.names)},
            "price_by_bar": {name: by_bar[:, i].tolist() for i, name in enumerate(series)},
        }


def by_importance(targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Named inputs, the largest first: by their share of all sizes, summed over horizons.

    targets: horizon to `figures`. Shares, because a long horizon's attributions may all be larger.
    """
    total: dict[str, float] = {}
    for figures in targets.values():
        sizes = {name: figure["size"] for name, figure in figures["inputs"].items()}
        for name, size in sizes.items():
            total[name] = total.get(name, 0.0) + size / (sum(sizes.values()) or 1.0)
    return sorted(total, key=lambda name: -total[name])


def weight_figures(
    price: Floats, static: Floats, attention: Floats, static_names: Sequence[str], series: Sequence[str]
) -> dict[str, Any]:
    """Means over windows of a model's own weights, with the quantiles 0.1 and 0.9.

    price: (k, T, S), of which a window's mean over bars is taken; static: (k, V); attention: (k, T), the mean
    over heads. The first bar is the oldest.
    """
    by_window, by_bar = price.mean(1), price.mean(0)
    return {
        "price": {name: _spread(by_window[:, i]) for i, name in enumerate(series)},
        "static": {name: _spread(static[:, i]) for i, name in enumerate(static_names)},
        "attention": _spread(attention),
        "price_by_bar": {name: by_bar[:, i].tolist() for i, name in enumerate(series)},
    }


def not_above_majority(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The horizons whose accuracy's interval does not lie above the majority class, or is not known."""
    return [
        horizon
        for horizon, m in scores.items()
        if None in (m["accuracy_low"], m["majority"]) or m["accuracy_low"] <= m["majority"]
    ]


def _size_and_mean(column: Floats) -> dict[str, float]:
    return {"size": float(np.abs(column).mean()), "mean": float(column.mean())}


def _spread(values: Floats) -> dict[str, Any]:
    """Mean, low and high over the first axis."""
    low, high = np.quantile(values, QUANTILES, axis=0)
    return {"mean": values.mean(0).tolist(), "low": low.tolist(), "high": high.tolist()}
