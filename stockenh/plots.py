"""Pictures of a run, drawn without pyplot: no window system and no global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stockenh.finder import Curve, Suggestions

# The colour-blind-safe palette of Okabe and Ito (2008), yellow left out: it is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
PART_TITLES = {"val": "validation", "test": "test"}


def training_curves(history: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss, validation accuracy per horizon and learning rate against epochs; returns the path written.

    history holds one mapping per epoch with `epoch`, `lr`, `train_loss`, `val_loss`, `val` ({"h3":
    {"accuracy", "majority"}, ...}) and `best`, which is true where the epoch was the best so far. Figures may
    be None.
    """
    figure = _figure(9, 6.2)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1), wspace=0.06)
    loss_axes, accuracy_axes = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    lr_axes = figure.add_subplot(grid[1, :])
    epochs = [row["epoch"] for row in history]
    best = _best_row(history)

    _draw_losses(loss_axes, epochs, history, best)
    _draw_accuracies(accuracy_axes, epochs, [row.get("val") or {} for row in history])
    _line(lr_axes, epochs, [row.get("lr") for row in history], COLOURS[2])
    lr_axes.set_ylabel("learning rate")
    lr_axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")

    for axes in (loss_axes, accuracy_axes, lr_axes):
        _epoch_axis(axes, epochs, None if best is None else best["epoch"])
    for axes in (loss_axes, accuracy_axes):
        _legend_above(axes)
    judged = any(row.get("val_loss") is not None for row in history)
    title = "Training and validation by epoch" if judged or not history else "Training by epoch"
    if best is not None:
        title += f": epoch {best['epoch']} of {len(history)} is best on validation"
    return _save(figure, title, path)


def accuracy_chart(parts: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> Path:
    """Direction accuracy with its interval beside the majority class, per horizon; returns the path written.

    parts maps "val" and "test" (others are left out) to {"h3": {"accuracy", "accuracy_low", "accuracy_high",
    "majority", "n"}, ...}. Figures may be None.
    """
    figure = _figure(9, 5)
    axes = figure.add_subplot()
    shown = [part for part in PART_TITLES if part in parts]
    horizons = sorted({key for part in shown for key in parts[part]}, key=_bars)
    for index, part in enumerate(shown):
        side = -1 if index == 0 else 1
        offset = 0.14 * side if len(shown) > 1 else 0.0
        for place, horizon in enumerate(horizons):
            scores = parts[part].get(horizon, {})
            label = PART_TITLES[part] if place == 0 else None
            _draw_score(axes, place + offset, side, scores, COLOURS[index], label)
    axes.plot([], [], color=GREY, linewidth=3, label="majority class (colour of its part)")
    axes.axhline(0.5, color="black", linestyle="--", linewidth=1, zorder=1, label="50%")
    room = 1.0 if len(horizons) < 2 else 0.6
    axes.set_xlim(-room, max(len(horizons) - 1, 0) + room)
    axes.set_xticks(range(len(horizons)), [f"{_bars_text(horizon)} ahead" for horizon in horizons])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("direction accuracy")
    axes.margins(y=0.12)
    _percent_axis(axes)
    _legend_above(axes)
    names = " and ".join(PART_TITLES[part] for part in shown) or "no part"
    title = (
        f"Direction accuracy on {names}\n"
        "bars: 95% moving-block bootstrap over dates; returns of exactly 0 left out"
    )
    return _save(figure, title, path)


def lr_curve(curve: Curve, found: Suggestions, path: Path) -> Path:
    """The range test's curve with its suggestions; returns the path written.

    Points are the change of the loss against the untouched model on the same batch, the line their
    exponential mean. The blow-up is cut off where it would press the descent flat.
    """
    figure = _figure(9, 5)
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
    _legend_above(axes)
    title = f"Learning-rate range test: optimizer.lr={found.lr}" if found.lr else "Learning-rate range test"
    return _save(figure, title if found.lr else f"{title}: no suggestion", path)


Reliability = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]


def reliability_chart(
    before: Mapping[str, Reliability], after: Mapping[str, Reliability], path: Path
) -> Path:
    """How often it went up against the forecast probability, on the test part; returns the path written.

    Both map "h3" to (mean forecast, share of up, rows) of each bin, before and after calibration.
    """
    horizons = sorted(before, key=_bars)
    figure = _figure(3.4 * max(len(horizons), 2) + 0.6, 4.4)
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
        axes.set_title(f"{_bars_text(horizon)} ahead", fontsize=10.5, pad=36)
        axes.set_xlabel("forecast probability of up")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.legend(
            handles=lines, loc="lower left", bbox_to_anchor=(-0.02, 1), frameon=False, fontsize=9,
            borderaxespad=0.2,
        )  # fmt: skip
        if place == 0:
            axes.set_ylabel("share that went up")
    return _save(figure, "Reliability on the test part, in ten bins of equal size", path)


def forecast_chart(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Forecast probability of up with its uncertainty, a panel per horizon; returns the path written.

    rows: `symbol date horizon up_prob uncertainty confident`. One bar per symbol becomes a list of symbols,
    more become lines through time; beyond 25 symbols or 7 lines, those farthest from 50% are shown.
    """
    horizons = sorted({row["horizon"] for row in rows})
    by_symbol: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_symbol.setdefault(row["symbol"], []).append(row)
    through_time = any(len(of) > len(horizons) for of in by_symbol.values())
    most = len(COLOURS) if through_time else 25
    far = sorted(by_symbol, key=lambda name: -max(abs(r["up_prob"] - 0.5) for r in by_symbol[name]))
    shown = sorted(far[:most])
    draw = _draw_through_time if through_time else _draw_symbols
    height = 4.4 if through_time else 1.9 + 0.24 * max(len(shown), 6)
    figure = _figure(3.4 * max(len(horizons), 2) + 1.2, height)
    first = None
    for place, horizon in enumerate(horizons):
        axes = figure.add_subplot(1, len(horizons), place + 1, sharex=first, sharey=first)
        first = first or axes
        draw(axes, {name: [r for r in by_symbol[name] if r["horizon"] == horizon] for name in shown})
        axes.set_title(f"{_bars_text(f'h{horizon}')} ahead", fontsize=10.5)
        if place:
            axes.tick_params(labelleft=False)
    if through_time:
        first.legend(frameon=False, fontsize=9, ncols=2)  # type: ignore[union-attr]
    of = f" of the {len(shown)} of {len(by_symbol)} symbols farthest from 50%" if len(far) > most else ""
    known = any(row["confident"] is not None for row in rows)
    dots = "dots: confident" if through_time else "filled: confident; bars: standard deviation over the views"
    marks = f"\n{dots}" if known else ""
    return _save(figure, f"Calibrated probability of a rise{of}{marks}", path)


def _draw_symbols(axes: Axes, forecasts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line of the list per symbol."""
    for place, of_symbol in enumerate(forecasts.values()):
        for row in of_symbol:
            face = COLOURS[0] if row["confident"] else "white"
            axes.errorbar(
                row["up_prob"], place, xerr=row["uncertainty"] or 0, fmt="o", color=COLOURS[0],
                markerfacecolor=face, markersize=5.5, linewidth=1.4, zorder=3,
            )  # fmt: skip
    axes.set_yticks(range(len(forecasts)), [name.replace("$", r"\$") for name in forecasts], fontsize=9)
    axes.set_ylim(len(forecasts) - 0.4, -0.6)
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.set_xlabel("probability of a rise")


def _draw_through_time(axes: Axes, forecasts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One line per symbol, with a dot where it is confident."""
    for colour, (name, of_symbol) in zip(COLOURS, forecasts.items(), strict=False):
        dates = [row["date"] for row in of_symbol]
        label = name.replace("$", r"\$")
        axes.plot(dates, [row["up_prob"] for row in of_symbol], color=colour, linewidth=1.1, label=label)
        sure = [row for row in of_symbol if row["confident"]]
        axes.plot([r["date"] for r in sure], [r["up_prob"] for r in sure], ".", color=colour, markersize=5)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _draw_losses(
    axes: Axes,
    epochs: Sequence[int],
    history: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any] | None,
) -> None:
    _line(axes, epochs, [row.get("train_loss") for row in history], COLOURS[0], "training")
    if any(row.get("val_loss") is not None for row in history):
        _line(axes, epochs, [row.get("val_loss") for row in history], COLOURS[1], "validation")
    if best is not None:
        star = axes.plot(best["epoch"], best["val_loss"], "*", color="black", label="best epoch")
        star[0].set(markersize=12, zorder=4)
    axes.set_ylabel("loss")


def _draw_accuracies(axes: Axes, epochs: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> None:
    """Each horizon's accuracy as a line and its majority class as a dashed line of the same colour."""
    horizons = sorted({key for row in rows for key in row}, key=_bars)
    for index, horizon in enumerate(horizons):
        colour = COLOURS[index % len(COLOURS)]
        scores = [row.get(horizon) or {} for row in rows]
        _line(axes, epochs, [s.get("accuracy") for s in scores], colour, _bars_text(horizon))
        majority = [_number(s.get("majority")) for s in scores]
        known = [share for share in majority if not math.isnan(share)]
        if known:
            axes.axhline(known[-1], color=colour, linestyle="--", linewidth=1.2, alpha=0.8)
    if horizons:
        axes.plot([], [], color=GREY, linestyle="--", linewidth=1.2, label="majority")
    elif rows:
        axes.annotate("no validation part", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
    axes.set_ylabel("validation accuracy")
    bottom, top = axes.get_ylim()
    lacking = max(0.04 - (top - bottom), 0.0)
    axes.set_ylim(bottom - lacking / 2, top + lacking / 2)
    _percent_axis(axes)


def _draw_score(
    axes: Axes, x: float, side: int, scores: Mapping[str, Any], colour: str, label: str | None
) -> None:
    """A point with its interval, its value on one side (-1 left, 1 right) and the majority class opposite."""
    accuracy = _number(scores.get("accuracy"))
    low, high = _number(scores.get("accuracy_low")), _number(scores.get("accuracy_high"))
    axes.plot([x], [accuracy], "o", color=colour, markersize=8, label=label, zorder=3)
    axes.plot([x, x], [low, high], color=colour, linewidth=2, zorder=2)
    majority = _number(scores.get("majority"))
    axes.plot([x - 0.04 * side, x - 0.12 * side], [majority] * 2, color=colour, linewidth=3, zorder=2)
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


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _line(
    axes: Axes, epochs: Sequence[int], values: Sequence[float | None], colour: str, label: str | None = None
) -> None:
    numbers = [_number(value) for value in values]
    marker = "o" if len(epochs) <= 30 else ""
    axes.plot(epochs, numbers, color=colour, label=label, marker=marker, markersize=3.5, zorder=3)


def _epoch_axis(axes: Axes, epochs: Sequence[int], best: int | None) -> None:
    """Whole epochs with half an epoch of room at both ends, and a line at the best one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if epochs:
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    if best is not None:
        axes.axvline(best, color=GREY, linewidth=1, linestyle=":", zorder=1)


def _percent_axis(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))


def _legend_above(axes: Axes) -> None:
    """A legend between title and data, where it hides nothing."""
    entries = len(axes.get_legend_handles_labels()[0])
    if entries:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4 if entries == 4 else 3,
            frameon=False,
            fontsize=9.5,
            borderaxespad=0.2,
            columnspacing=1.0,
            handlelength=1.5,
            handletextpad=0.5,
        )


def _best_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The last epoch that was the best so far and has a validation loss."""
    best = [row for row in history if row.get("best") and row.get("val_loss") is not None]
    return best[-1] if best else None


def _bars(horizon: str) -> int:
    """The bars of a horizon's name: 10 for "h10"."""
    return int(horizon.removeprefix("h"))


def _bars_text(horizon: str) -> str:
    bars = _bars(horizon)
    return "1 bar" if bars == 1 else f"{bars} bars"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _save(figure: Figure, title: str, path: Path) -> Path:
    for axes in figure.axes:
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#E0E0E0", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
