"""What all pictures share. Drawn without pyplot: no window system and no global state."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stockenh.errors import printable
from stockenh.storage.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


# The colour-blind-safe palette of Okabe and Ito (2008), yellow left out: it is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
LETTERS_PER_INCH = 11  # of a title
SVG_METADATA = ("Creator", "Date", "Format", "Type")  # left out: they differ from run to run


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, its parts laid out without overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def line(
    axes: Axes, epochs: Sequence[int], values: Sequence[float | None], colour: str, label: str | None = None
) -> None:
    """A line over epochs, with dots where they are few; None leaves a gap."""
    numbers = [or_nan(value) for value in values]
    marker = "o" if len(epochs) <= 30 else ""
    axes.plot(epochs, numbers, color=colour, label=label, marker=marker, markersize=3.5, zorder=3)


def percent_axis(axes: Axes) -> None:
    """Shares on the y axis as percentages."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))


def short_percent(axis: Axis) -> None:
    """Shares on an axis as percentages with as few digits as they need."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def as_drawn(text: str) -> str:
    """Text of data, drawn as it is: a dollar sign begins no formula, and nothing is unprintable."""
    return printable(text).replace("$", r"\$")


def named_rows(axes: Axes, names: Sequence[str]) -> None:
    """A row for each name, the first on top."""
    axes.set_yticks(range(len(names)), [as_drawn(name) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)


def grouped_bars(axes: Axes, names: Sequence[str], sizes: Mapping[str, Mapping[str, float]]) -> None:
    """A row per name, and in it a bar per horizon; sizes: by horizon, then name."""
    height = 0.8 / len(sizes)
    for place, (horizon, by_name) in enumerate(sizes.items()):
        rows = [row + height * (place - (len(sizes) - 1) / 2) for row in range(len(names))]
        axes.barh(rows, [by_name[name] for name in names], height=0.92 * height,
                  color=COLOURS[place % len(COLOURS)], label=f"{bars_text(horizon)} ahead")  # fmt: skip
    named_rows(axes, names)


def legend_above(axes: Axes) -> None:
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


def bars_of(horizon: str) -> int:
    """The bars of a horizon's name: 10 for "h10"."""
    return int(horizon.removeprefix("h"))


def bars_text(horizon: str) -> str:
    """`10 bars` for "h10"."""
    bars = bars_of(horizon)
    return "1 bar" if bars == 1 else f"{bars} bars"


def or_nan(value: float | None) -> float:
    """What matplotlib draws as a gap where there is no value."""
    return math.nan if value is None else float(value)


def save(figure: Figure, title: str, path: Path) -> Path:
    """Gives all axes the house's look, writes the figure and returns its path."""
    for axes in figure.axes:
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#E0E0E0", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    letters = int(LETTERS_PER_INCH * figure.get_figwidth())
    lines = [part for whole in title.split("\n") for part in textwrap.wrap(whole, letters)]
    figure.suptitle("\n".join(map(as_drawn, lines)), fontsize=12)
    return write_picture(figure, path)


def write_picture(figure: Figure, path: Path) -> Path:
    """Writes a picture whole or not at all, as PNG or SVG by the suffix; returns its path. Raises DiskError.

    An SVG has no background, and its text is text, in the font of the page that it stands on.
    """
    import matplotlib

    content = io.BytesIO()
    if path.suffix == ".svg":
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stockenh"}):
            figure.savefig(content, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    else:
        figure.savefig(content, format="png")
    write_atomic(path, content.getbuffer())
    return path
