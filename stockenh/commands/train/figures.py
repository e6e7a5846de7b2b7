"""The pictures of a run: reliability before and after calibration, curves by epoch, accuracy by part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stockenh.report.figure import (
    COLOURS,
    GREY,
    as_drawn,
    bars_of,
    bars_text,
    legend_above,
    line,
    new_figure,
    or_nan,
    percent_axis,
    save,
    short_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Reliability = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]


Intervals = tuple[NDArray[np.floating], NDArray[np.floating]]


def reliability_chart(
    before: Mapping[str, Reliability],
    after: Mapping[str, Reliability],
    path: Path,
    part: str = "the test part",
    intervals: Mapping[str, Intervals] | None = None,
) -> Path:
    """Draws how often prices went up against the forecast probability, a panel per horizon; returns the path.

    Both map "h3" to (mean forecast, share of up, rows) of each bin, before and after calibration; intervals:
    (low, high) of each calibrated bin's share, NaN where it has none.
    """
    horizons = sorted(before, key=bars_of)
    figure = new_figure(3.4 * max(len(horizons), 2) + 0.6, 4.4)
    for place, horizon in enumerate(horizons):
        axes = figure.add_subplot(1, len(horizons), place + 1)
        ends = (intervals or {}).get(horizon)
        handles = _draw_reliability(axes, before[horizon], after[horizon], ends)
        axes.set_title(f"{bars_text(horizon)} ahead", fontsize=10.5, pad=36)
        axes.set_xlabel("forecast probability of up")
        for axis in (axes.xaxis, axes.yaxis):
            short_percent(axis)
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1), frameon=False, fontsize=9,
            borderaxespad=0.2,
        )  # fmt: skip
        if place == 0:
            axes.set_ylabel("share that went up")
    title = f"Reliability on {part}, in ten bins of equal size"
    if intervals:
        title += "\nbars: 95% moving-block bootstrap over dates; dashed: forecast and share agree"
    return save(figure, title, path)


def _draw_reliability(
    axes: Axes, raw: Reliability, calibrated: Reliability, ends: Intervals | None
) -> list[Any]:
    """Small hollow dots for the model's own bins, and dots with intervals for the calibrated ones."""
    handles: list[Any] = []
    styles: tuple[dict[str, Any], ...] = (
        {"color": COLOURS[1], "markersize": 4, "markerfacecolor": "white", "zorder": 3},
        {"color": COLOURS[0], "markersize": 5.5, "zorder": 2},
    )
    for name, curve, style in zip(("uncalibrated", "calibrated"), (raw, calibrated), styles, strict=True):
        forecast, share, count = curve
        error = float(np.abs(forecast - share) @ count / max(count.sum(), 1))
        label = f"{name}: ECE {error:.3f}" if len(count) else f"{name}: n/a"
        handles += axes.plot(forecast, share, "o", label=label, **style)
    if ends is not None:
        axes.vlines(calibrated[0], *ends, color=COLOURS[0], linewidth=1.4, alpha=0.6, zorder=1)
    seen = [*raw[0], *calibrated[0]]
    middle, width = (min(seen) + max(seen)) / 2 if seen else 0.5, max(seen) - min(seen) if seen else 0.0
    half = max(0.6 * width, 0.03)
    axes.axline((0.5, 0.5), slope=1, color=GREY, linestyle="--", linewidth=1, zorder=0)
    axes.set_xlim(middle - half, middle + half)
    values = [v for v in (*raw[1], *calibrated[1], *np.ravel(ends or [])) if math.isfinite(v)]
    low, high = min([*values, middle - half]), max([*values, middle + half])
    axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    return handles


PART_TITLES = {"val": "validation", "test": "test"}


def training_curves(
    history: Sequence[Mapping[str, Any]], path: Path, loss: str = "the run's own loss"
) -> Path:
    """Draws both losses, validation accuracy per horizon and learning rate against epochs; returns the path.

    The training loss has a panel of its own: it may be another function than the validation loss, and is of
    a model that changes during the epoch, with dropout.
    history: one mapping per epoch with `epoch`, `lr`, `train_loss`, `val_loss`, `val` ({"h3": {"accuracy",
    "majority"}, ...}) and `best`, whether the epoch was the best so far. Figures may be None.
    loss: what the training loss is
    """
    figure = new_figure(9, 6.6)
    grid = figure.add_gridspec(2, 2, wspace=0.06)
    train_axes, val_axes, accuracy_axes, lr_axes = (
        figure.add_subplot(grid[row, column]) for row in (0, 1) for column in (0, 1)
    )
    epochs = [row["epoch"] for row in history]
    validated = [row for row in history if row.get("val_loss") is not None]
    best = next((row for row in reversed(validated) if row.get("best")), None)

    line(train_axes, epochs, [row.get("train_loss") for row in history], COLOURS[0], "training")
    train_axes.set_ylabel(f"training loss\n{as_drawn(loss)}")
    if validated:
        label = "validation" + ", calibrated" * ("val_loss_uncalibrated" in validated[-1])
        line(val_axes, epochs, [row.get("val_loss") for row in history], COLOURS[1], label)
    else:
        val_axes.annotate("no validation part", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
    if best is not None:
        val_axes.plot(
            best["epoch"], best["val_loss"], "*", color="black", label="best epoch", markersize=12, zorder=4
        )
    val_axes.set_ylabel("validation loss\nthe plain loss of every run")
    _draw_accuracies(accuracy_axes, epochs, [row.get("val") or {} for row in history])
    line(lr_axes, epochs, [row.get("lr") for row in history], COLOURS[2])
    lr_axes.set_ylabel("learning rate")
    lr_axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")

    for axes in figure.axes:
        _epoch_axis(axes, epochs, None if best is None else best["epoch"])
    for axes in (train_axes, val_axes, accuracy_axes):
        legend_above(axes)
    title = "Training and validation by epoch" if validated or not history else "Training by epoch"
    if best is not None:
        title += f": epoch {best['epoch']} of {len(history)} is best on validation"
    if validated:
        title += "\nthe two losses are not comparable"
    return save(figure, title, path)


def accuracy_chart(parts: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path, of: str = "") -> Path:
    """Draws direction accuracy with its interval and the majority class, per horizon; returns the path.

    of: what the title ends with where the target is no return, see `of_target`
    parts maps "val" and "test" (others are left out) to {"h3": {"accuracy", "accuracy_low", "accuracy_high",
    "majority", "n"}, ...}. Figures may be None. A "limit_accuracy" is drawn where there is one.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    shown = [part for part in PART_TITLES if part in parts]
    horizons = sorted({key for part in shown for key in parts[part]}, key=bars_of)
    for index, part in enumerate(shown):
        side = -1 if index == 0 else 1
        offset = 0.14 * side if len(shown) > 1 else 0.0
        for place, horizon in enumerate(horizons):
            scores = parts[part].get(horizon, {})
            label = PART_TITLES[part] if place == 0 else None
            _draw_score(axes, place + offset, side, scores, COLOURS[index], label)
    axes.plot([], [], color=GREY, linewidth=3, label="majority class (colour of its part)")
    if any(parts[part][key].get("limit_accuracy") is not None for part in shown for key in parts[part]):
        label = "limit: the best possible forecast"
        axes.plot([], [], color=GREY, linewidth=3, linestyle=":", label=label)
    axes.axhline(0.5, color="black", linestyle="--", linewidth=1, zorder=1, label="50%")
    margin = 1.0 if len(horizons) < 2 else 0.6
    axes.set_xlim(-margin, max(len(horizons) - 1, 0) + margin)
    axes.set_xticks(range(len(horizons)), [f"{bars_text(horizon)} ahead" for horizon in horizons])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("direction accuracy")
    axes.margins(y=0.12)
    percent_axis(axes)
    legend_above(axes)
    names = " and ".join(PART_TITLES[part] for part in shown) or "no part"
    title = (
        f"Direction accuracy on {names}\n"
        "bars: 95% moving-block bootstrap over dates; returns of exactly 0 left out"
    )
    return save(figure, title + of, path)


def _draw_accuracies(axes: Axes, epochs: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> None:
    """Each horizon's accuracy as a line and its majority class as a dashed line of the same colour."""
    horizons = sorted({key for row in rows for key in row}, key=bars_of)
    for index, horizon in enumerate(horizons):
        colour = COLOURS[index % len(COLOURS)]
        scores = [row.get(horizon) or {} for row in rows]
        line(axes, epochs, [s.get("accuracy") for s in scores], colour, bars_text(horizon))
        majority = [or_nan(s.get("majority")) for s in scores]
        known = [share for share in majority if not math.isnan(share)]
        if known:
            axes.axhline(known[-1], color=colour, linestyle="--", linewidth=1.2, alpha=0.8)
    if horizons:
        axes.plot([], [], color=GREY, linestyle="--", linewidth=1.2, label="majority")
    elif rows:
        axes.annotate("no validation part", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
    axes.set_ylabel("validation accuracy")
    bottom, top = axes.get_ylim()
    missing = max(0.04 - (top - bottom), 0.0)
    axes.set_ylim(bottom - missing / 2, top + missing / 2)
    percent_axis(axes)


def _draw_score(
    axes: Axes, x: float, side: int, scores: Mapping[str, Any], colour: str, label: str | None
) -> None:
    """A point with its interval, its value on one side (-1 left, 1 right), majority and limit opposite."""
    accuracy = or_nan(scores.get("accuracy"))
    low, high = or_nan(scores.get("accuracy_low")), or_nan(scores.get("accuracy_high"))
    axes.plot([x], [accuracy], "o", color=colour, markersize=8, label=label, zorder=3)
    axes.plot([x, x], [low, high], color=colour, linewidth=2, zorder=2)
    for name, style in (("majority", "-"), ("limit_accuracy", ":")):
        level = or_nan(scores.get(name))
        if name == "majority" or not math.isnan(level):
            ends = [x - 0.04 * side, x - 0.12 * side]
            axes.plot(ends, [level] * 2, color=colour, linewidth=3, linestyle=style, zorder=2)
    known = not math.isnan(accuracy)
    axes.annotate(
        f"{accuracy:.1%}" if known else "n/a",
        (x, accuracy if known else 0.5),
        (7 * side, 0 if known else 8),
        textcoords="offset points",
        ha="right" if side < 0 else "left",
        va="center",
        color=colour,
        fontsize=9,
    )


def _epoch_axis(axes: Axes, epochs: Sequence[int], best: int | None) -> None:
    """Whole epochs with a margin of half an epoch, and a line at the best one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if epochs:
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    if best is not None:
        axes.axvline(best, color=GREY, linewidth=1, linestyle=":", zorder=1)
