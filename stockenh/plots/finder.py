"""The picture of a learning-rate range test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stockenh.plots.figure import COLOURS, legend_above, new_figure, save

if TYPE_CHECKING:
    from stockenh.finder import Curve, Suggestions


def lr_curve(curve: Curve, found: Suggestions, path: Path) -> Path:
    """The range test's curve with its suggestions; returns the path written.

    Points are the change of the loss against the untouched model on the same batch, the line their
    exponential mean. The blow-up is cut off where it would press the descent flat.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    changes = [loss - untouched for loss, untouched in zip(curve.losses, curve.untouched, strict=True)]
    points = axes.plot(curve.lrs, changes, "o", color=COLOURS[5], label="each step")
    points[0].set(markersize=3, alpha=0.7)
    label = f"exponential mean ({curve.smoothing:g})"
    axes.plot(curve.lrs, curve.smoothed, color=COLOURS[0], linewidth=2, label=label, zorder=3)
    for name, colour in (("valley", COLOURS[1]), ("steepest", COLOURS[2]), ("minimum", COLOURS[3])):
        rate = getattr(found, name)
        if rate is not None:
            what = "minimum / 10" if name == "minimum" else name
            axes.axvline(rate, color=colour, linewidth=1.6, label=f"{what}: {rate:.2g}")
    axes.axhline(0, color="black", linewidth=1, linestyle="--", zorder=1)
    if curve.lrs:
        axes.set_xscale("log")
        depth = max(-min(curve.smoothed), 0.01 * abs(curve.level))
        axes.set_ylim(-2 * depth, 2 * depth)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("change of the loss on the same batch")
    legend_above(axes)
    title = f"Learning-rate range test: optimizer.lr={found.lr}" if found.lr else "Learning-rate range test"
    return save(figure, title if found.lr else f"{title}: no suggestion", path)
