"""The picture of an ablation: every recipe's accuracy above the plain one, beside what is claimed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stockenh.analysis.claims import FAILS, HOLDS
from stockenh.plots.figure import COLOURS, GREY, bars_of, legend_above, new_figure, save
from stockenh.tables.ablation import Line

_LOOKS = {HOLDS: (COLOURS[2], "o"), FAILS: (COLOURS[1], "X")}


def forest(lines: Sequence[Line], horizon: str, path: Path) -> Path:
    """Differences in accuracy with their 95% intervals, and the claimed ranges; returns the path written."""
    shown = [line for line in lines if line.name != "plain" and line.differences[horizon]["accuracy"]]
    figure = new_figure(9, 2.2 + 0.36 * len(shown))
    axes = figure.add_subplot()
    told: set[str] = set()

    def once(label: str) -> str | None:
        fresh = label not in told
        told.add(label)
        return label if fresh else None

    for place, line in enumerate(reversed(shown)):
        found = line.differences[horizon]["accuracy"]
        assert found is not None
        claim = next((c for c in line.claims if c.claim.measure == "accuracy"), None)
        if claim is not None and claim.claim.least is not None:
            most = claim.claim.most if claim.claim.most is not None else claim.claim.least + 1.0
            axes.barh(place, most - claim.claim.least, left=claim.claim.least, height=0.62,
                      color=COLOURS[5], alpha=0.35, label=once("claimed"), zorder=1)  # fmt: skip
        verdict = claim.verdict.word if claim is not None else "no claim on accuracy"
        colour, marker = _LOOKS.get(verdict, (GREY if claim is None else COLOURS[0], "o"))
        ends = None
        if found.low is not None and found.high is not None:
            ends = [[found.mean - found.low], [found.high - found.mean]]
        label = once(f"measured, {verdict}" if claim is not None else verdict)
        axes.errorbar(found.mean, place, xerr=ends, fmt=marker, color=colour, capsize=3, markersize=6,
                      label=label, zorder=3)  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=1.2, zorder=2)
    axes.set_yticks(range(len(shown)), [line.title for line in reversed(shown)])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel("accuracy above the plain recipe, points of the test part")
    axes.grid(axis="x", color="#E0E0E0", linewidth=0.8)
    legend_above(axes)
    bars = bars_of(horizon)
    seeds = max((line.seeds for line in shown), default=0)
    title = f"Techniques against the plain recipe at {bars} bars\n{seeds} seeds, paired; bars: 95% over seeds"
    return save(figure, title, path)
