"""The picture of an export's parity with the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stockenh.plots.figure import COLOURS, GREY, legend_above, new_figure, percent_axis, save

SMALLEST = 1e-10


def parity_chart(parity: Mapping[str, Mapping[str, NDArray[np.floating]]], limit: float, path: Path) -> Path:
    """The share of forecasts that lie at most so far from the run's own; returns the path written.

    parity maps a file's name to the absolute differences of each output.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    curves = [(f"{file}: {key}", d) for file, of_file in parity.items() for key, d in of_file.items()]
    for colour, (label, found) in zip(COLOURS, curves, strict=False):
        at = np.sort(np.nan_to_num(np.maximum(found, SMALLEST), nan=np.inf))
        axes.step(at, np.arange(1, len(at) + 1) / len(at), where="post", color=colour, label=label)
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1.5, label=f"limit {limit:g}")
    axes.set_xscale("log")
    axes.set_xlabel(f"absolute difference to the run's own forecast (smaller ones stand at {SMALLEST:g})")
    axes.set_ylabel("share of forecasts")
    percent_axis(axes)
    legend_above(axes)
    return save(figure, "Exported model against the run's own forecasts", path)
