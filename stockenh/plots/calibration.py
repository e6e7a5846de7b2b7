"""The picture of calibration before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stockenh.plots.figure import COLOURS, GREY, bars_of, bars_text, new_figure, save

if TYPE_CHECKING:
    pass

Reliability = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]


def reliability_chart(
    before: Mapping[str, Reliability],
    after: Mapping[str, Reliability],
    path: Path,
    part: str = "the test part",
) -> Path:
    """How often it went up against the forecast probability; returns the path written.

    Both map "h3" to (mean forecast, share of up, rows) of each bin, before and after calibration.
    """
    horizons = sorted(before, key=bars_of)
    figure = new_figure(3.4 * max(len(horizons), 2) + 0.6, 4.4)
    for place, horizon in enumerate(horizons):
        axes = figure.add_subplot(1, len(horizons), place + 1)
        curves = (("as the model says", before[horizon]), ("calibrated", after[horizon]))
        edges = [*(v for _, (p, up, _) in curves for v in (*p, *up)), 0.45, 0.55]
        low, high = min(edges), max(edges)
        axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1, zorder=1)
        lines = []
        for colour, (name, (forecast, share, count)) in zip((COLOURS[1], COLOURS[0]), curves, strict=False):
            error = float(np.abs(forecast - share) @ count / max(count.sum(), 1))
            label = f"{name}: ECE {error:.3f}" if len(count) else f"{name}: n/a"
            lines += axes.plot(forecast, share, "o-", color=colour, markersize=4, label=label, zorder=3)
        axes.set_title(f"{bars_text(horizon)} ahead", fontsize=10.5, pad=36)
        axes.set_xlabel("forecast probability of up")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.legend(
            handles=lines, loc="lower left", bbox_to_anchor=(-0.02, 1), frameon=False, fontsize=9,
            borderaxespad=0.2,
        )  # fmt: skip
        if place == 0:
            axes.set_ylabel("share that went up")
    return save(figure, f"Reliability on {part}, in ten bins of equal size", path)
