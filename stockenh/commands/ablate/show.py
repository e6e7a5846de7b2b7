"""An ablation as tables: what was measured, and what that makes of the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from stockenh.commands.ablate.claims import FAILS, HOLDS, MEASURES, Claim, Interval, Verdict
from stockenh.report.figure import COLOURS, GREY, bars_of, legend_above, new_figure, save
from stockenh.report.table import percent


@dataclass(frozen=True)
class ClaimLine:
    """One claim, what was measured of it, and the verdict."""

    claim: Claim
    measured: Interval | None
    verdict: Verdict


@dataclass(frozen=True)
class Line:
    """One recipe in figures.

    note:        what a reader must know of it
    seeds:       how many runs its figures are of
    level:       means over the seeds, by horizon and score
    differences: paired with the plain recipe, by horizon and score; accuracy and gap in points
    costs:       over the plain recipe's, by measure
    compute:     windows seen in training over those that the plain recipe sees; None where nothing is known
    chosen:      how many seeds kept averaged weights, by name
    """

    name: str
    title: str
    note: str
    seeds: int
    level: Mapping[str, Mapping[str, float | None]]
    differences: Mapping[str, Mapping[str, Interval | None]]
    costs: Mapping[str, Interval | None]
    compute: float | None
    chosen: Mapping[str, int]
    claims: tuple[ClaimLine, ...]


STYLES = {HOLDS: "green", FAILS: "red"}


def recipes_table(lines: Sequence[Line], horizon: str, title: str) -> Table:
    """Every recipe beside the plain one, at one horizon."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 0), show_edge=False, caption=(
        "points: accuracy above plain, paired by seed, mean [95% over seeds]. log loss, ECE: difference to "
        "plain, of the model's own probabilities. train, memory: over plain. compute: windows seen in "
        "training over plain's, teachers, trials and range tests included"
    ))  # fmt: skip
    headings = ("recipe", "seeds", "accuracy", "points", "log loss", "ECE", "train", "memory", "compute")
    for name in headings:
        table.add_column(name, justify="left" if name == "recipe" else "right", no_wrap=name != "recipe")
    for line in lines:
        table.add_row(*cells(line, horizon))
    return table


def claims_table(lines: Sequence[Line]) -> Table:
    """Every claim beside what was measured, and the verdict."""
    table = Table(title="What is claimed, and what was measured", title_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)  # fmt: skip
    for name in ("technique", "claimed", "measured", "verdict", "why"):
        table.add_column(name, overflow="fold", no_wrap=name == "verdict")
    for line in lines:
        for at, claim in enumerate(line.claims):
            name = line.title if at == 0 else ""
            table.add_row(name, claim_text(claim), measured_text(claim), claim.verdict.word,
                          why_text(line, claim), style=STYLES.get(claim.verdict.word))  # fmt: skip
    return table


def cells(line: Line, horizon: str) -> list[str]:
    """A recipe's figures at one horizon as text."""
    is_plain = line.name == "plain"
    differences = line.differences.get(horizon, {})
    speed, memory = line.costs["train_speed"], line.costs["memory"]
    return [
        line.title,
        str(line.seeds) if line.seeds else "",
        percent(line.level.get(horizon, {}).get("accuracy")) if line.seeds else "not run",
        "" if is_plain else interval_text(differences.get("accuracy"), 2),
        "" if is_plain else _signed(differences.get("log_loss"), 4),
        "" if is_plain else _signed(differences.get("ece"), 4),
        "" if speed is None else f"{speed.mean:.2f}x",
        "" if memory is None else f"{memory.mean:.2f}x",
        "" if line.compute is None else f"{line.compute:.1f}x",
    ]


def claim_text(line: ClaimLine) -> str:
    return line.claim.says or f"{MEASURES[line.claim.measure].title}: {line.claim.minimum:g}"


def measured_text(line: ClaimLine) -> str:
    """`-0.42 [-1.10, 0.26] points accuracy`."""
    measure = MEASURES[line.claim.measure]
    if line.measured is None:
        return "n/a"
    unit = f" {measure.unit}" if measure.unit == "points" else measure.unit
    signed = measure.unit == "points" or line.claim.measure in ("ece", "log_loss")
    return f"{interval_text(line.measured, measure.digits, signed)}{unit} {line.claim.measure}"


def why_text(line: Line, claim: ClaimLine) -> str:
    """The verdict's reason, or why there is nothing to judge."""
    return line.note if claim.measured is None and line.note else claim.verdict.why


def interval_text(found: Interval | None, digits: int, signed: bool = True) -> str:
    """`+0.42 [-0.10, +0.94]`; without the ends where there are none."""
    if found is None:
        return "n/a"
    sign = "+" if signed else ""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.{digits}f}"
    return f"{found.mean:{sign}.{digits}f} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def _signed(found: Interval | None, digits: int) -> str:
    return "n/a" if found is None else f"{found.mean:+.{digits}f}"


_LOOKS = {HOLDS: (COLOURS[2], "o"), FAILS: (COLOURS[1], "X")}


def forest(lines: Sequence[Line], horizon: str, path: Path) -> Path:
    """Differences in accuracy with their 95% intervals, and the claimed ranges; returns the path written."""
    shown = [line for line in lines if line.name != "plain" and line.differences[horizon]["accuracy"]]
    figure = new_figure(9, 2.2 + 0.36 * len(shown))
    axes = figure.add_subplot()
    labelled: set[str] = set()

    def once(label: str) -> str | None:
        fresh = label not in labelled
        labelled.add(label)
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
