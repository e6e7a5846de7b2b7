"""The picture of a distillation: teacher and students beside the majority class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockenh.plots.figure import (
    COLOURS,
    GREY,
    bars_of,
    bars_text,
    legend_above,
    new_figure,
    number,
    percent_axis,
    save,
)


def distillation_chart(scores: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> Path:
    """Test accuracy with its interval, per horizon and model; returns the path written.

    scores maps the name of a model to {"h3": {"accuracy", "accuracy_low", "accuracy_high", "majority"}, ...}.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    horizons = sorted({horizon for of_model in scores.values() for horizon in of_model}, key=bars_of)
    for index, (name, of_model) in enumerate(scores.items()):
        offset = 0.2 * (index - (len(scores) - 1) / 2)
        for place, horizon in enumerate(horizons):
            m = of_model[horizon]
            accuracy, low, high = (number(m[key]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
            axes.errorbar(
                place + offset, accuracy, [[accuracy - low], [high - accuracy]], fmt="o", capsize=4,
                color=COLOURS[index], markersize=7, label=name if place == 0 else None, zorder=3,
            )  # fmt: skip
    first = next(iter(scores.values()))
    for place, horizon in enumerate(horizons):
        majority = number(first[horizon]["majority"])
        axes.hlines(majority, place - 0.4, place + 0.4, color=GREY, linestyle="--", linewidth=1.5,
                    label="majority class" if place == 0 else "_")  # fmt: skip
    axes.set_xticks(range(len(horizons)), [f"{bars_text(horizon)} ahead" for horizon in horizons])
    axes.set_ylabel("direction accuracy")
    percent_axis(axes)
    legend_above(axes)
    title = "Distillation on the test part\nbars: 95% moving-block bootstrap over dates"
    return save(figure, title, path)
