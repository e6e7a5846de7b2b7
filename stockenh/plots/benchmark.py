"""The picture of a benchmark: every ratio with its spread, and what is aimed at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockenh.plots.figure import COLOURS, GREY, legend_above, new_figure, save
from stockenh.tables.figures import significant


def benchmark_chart(found: Mapping[str, Any], path: Path) -> Path:
    """Ratios on a logarithmic axis, quartiles as whiskers, aims as ticks; returns the path written."""
    ratios = [f for f in found["figures"] if f["unit"] == "times" and f["value"] is not None]
    figure = new_figure(10, 1.6 + 0.3 * max(len(ratios), 1))
    axes = figure.add_subplot()
    parts, named = list(dict.fromkeys(f["part"] for f in ratios)), set[str]()
    for place, ratio in zip(reversed(range(len(ratios))), ratios, strict=True):
        colour = COLOURS[parts.index(ratio["part"]) % len(COLOURS)]
        low, high = (ratio[key] if ratio[key] is not None else ratio["value"] for key in ("low", "high"))
        axes.plot([low, high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        label = ratio["part"] if ratio["part"] not in named else None
        named.add(ratio["part"])
        axes.plot(ratio["value"], place, "o", color=colour, markersize=6, zorder=3, label=label)
        axes.text(1.01, place, significant(ratio["value"]), transform=axes.get_yaxis_transform(),
                  va="center", fontsize=8.5)  # fmt: skip
        if aim := re.search(r"[\d.]+", ratio["aim"] or ""):
            axes.plot(
                float(aim[0]),
                place,
                "<" if "most" in ratio["aim"] else ">",
                color=GREY,
                markersize=8,
                zorder=2,
            )
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_yticks(range(len(ratios)), [ratio["name"] for ratio in reversed(ratios)], fontsize=8.5)
    axes.set_xlabel("times (dot: median; line: quartiles; triangle: the aim, that side of it)")
    axes.margins(x=0.1, y=0.02)
    legend_above(axes)
    machine = found["machine"]
    device = machine["device_name"] or f"{machine['processor']}, {machine['threads']} thread(s)"
    return save(figure, f"Ratios on {device}", path)
