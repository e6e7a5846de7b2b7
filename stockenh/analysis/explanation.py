"""Attributions and weights of many windows, brought down to figures a person can read.

Legend: k windows, T bars, S price series, V named inputs (price series, context features, embedding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

LOW, HIGH = 0.1, 0.9  # the quantiles over windows that spreads are given as


@dataclass(frozen=True)
class Explained:
    """What the named inputs add to one output at one horizon, in the units of a forecast.

    inputs: (k, V) attributions; price: (k, T, S) those of the price series by bar
    value:  (k,) the forecast; baseline: the forecast for the baseline
    gap:    (k,) see `attribution.relative_gap`; steps: (k,)
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
        """What explain.json says of it. groups: the group of each named input.

        An input's `size` is the mean over windows of its attribution's absolute value, `mean` that of the
        attribution itself; a group's attribution in a window is the sum over its inputs.
        """
        columns = group_columns(self.names, groups)
        summed = {group: self.inputs[:, places].sum(1) for group, places in columns.items()}
        series = self.names[: self.price.shape[2]]
        by_bar = np.abs(self.price).mean(0)
        return {
            "baseline": self.baseline,
            "completeness": {
                "worst": float(self.gap.max()),
                "mean": float(self.gap.mean()),
                "most_steps": int(self.steps.max()),
            },
            "groups": {group: _size_and_mean(of) for group, of in summed.items()},
            "inputs": {name: _size_and_mean(self.inputs[:, i]) for i, name in enumerate(self.names)},
            "price_by_bar": {name: by_bar[:, i].tolist() for i, name in enumerate(series)},
        }


def group_columns(names: Sequence[str], groups: Mapping[str, str]) -> dict[str, list[int]]:
    """The places of each group's inputs among the names, groups in the order of their first."""
    columns: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        columns.setdefault(groups[name], []).append(place)
    return columns


def by_importance(targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Named inputs, the largest first: by their share of all sizes, summed over horizons.

    targets: horizon to `figures`. Shares, because a long horizon's attributions may all be larger.
    """
    total: dict[str, float] = {}
    for figures in targets.values():
        whole = sum(of["size"] for of in figures["inputs"].values()) or 1.0
        for name, of in figures["inputs"].items():
            total[name] = total.get(name, 0.0) + of["size"] / whole
    return sorted(total, key=lambda name: -total[name])


def weight_figures(price: Floats, static: Floats, attention: Floats, static_names: Sequence[str],
                   series: Sequence[str]) -> dict[str, Any]:  # fmt: skip
    """Means over windows of a model's own weights, with the quantiles 0.1 and 0.9.

    price: (k, T, S), of which a window's mean over bars is taken; static: (k, V); attention: (k, T), the mean
    over heads. The first bar is the oldest.
    """
    per_window = price.mean(1)
    return {
        "price": {name: _spread(per_window[:, i]) for i, name in enumerate(series)},
        "static": {name: _spread(static[:, i]) for i, name in enumerate(static_names)},
        "attention": {name: column.tolist() for name, column in _spreads(attention).items()},
        "price_by_bar": {name: price[:, :, i].mean(0).tolist() for i, name in enumerate(series)},
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


def _spread(column: Floats) -> dict[str, float]:
    return {name: float(value) for name, value in _spreads(column).items()}


def _spreads(values: Floats) -> dict[str, Any]:
    """Mean, low and high over the first axis."""
    low, high = np.quantile(values, [LOW, HIGH], axis=0)
    return {"mean": values.mean(0), "low": low, "high": high}
