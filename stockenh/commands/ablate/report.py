"""Tables and picture of an ablation, on the terminal and as Markdown, with the rules of its verdicts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stockenh.commands.ablate.claims import FAILS, HOLDS, MEASURES, Interval
from stockenh.commands.ablate.perform import WINDOWS
from stockenh.commands.ablate.results import ClaimLine, Found, Line, collect, lines_of
from stockenh.commands.ablate.spec import AblationSpec
from stockenh.commands.multirun.launch import show_line
from stockenh.report.figure import COLOURS, GREY, bars_of, legend_above, new_figure, save
from stockenh.report.table import markdown_table, new_table, of_target, percent
from stockenh.storage.files import write_atomic, write_json

RULES = """\
Every difference is paired: the same seed, the same data, the technique against the plain recipe. The
interval is Student's 95% over the seeds: it tells what another seed would change, not what another test part
would. A claim holds where the whole interval reaches its minimum, does not hold where the whole interval
falls short of it, and otherwise it is undecided. An ablation compares fixed recipes and selects nothing, so
these are figures of the test part; a search chooses its trial on validation. One interval in twenty misses by
chance.
"""

CAPTION = (
    "points: accuracy above plain, paired by seed, mean [95% over seeds]. log loss, ECE: difference to "
    "plain, of the model's own probabilities. train, memory: over plain. compute: windows seen in training "
    "over plain's, teachers, trials and range tests included"
)
STYLES = {HOLDS: "green", FAILS: "red"}
# Differences in the Markdown table, and their digits.
DIGITS = {
    "accuracy": 2, "gap_closed": 1, "log_loss": 4, "log_loss_calibrated": 4, "ece": 4, "ece_calibrated": 4,
}  # fmt: skip


def conclude(spec: AblationSpec, console: Console) -> None:
    """Writes and shows the table, the figures and the picture from what lies in the folder."""
    found = collect(spec.folder, spec.plan)
    bars, seeds, path = spec.settings.horizon, spec.plan.seeds, spec.folder.path
    lines = lines_of(spec.plan, found, spec.base, spec.configs, bars)
    command = shlex.join(["stockenh", "ablate", *spec.folder.read()["arguments"]])
    title = f"Recipes on the test part at {bars} bars, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    title += of_target(spec.base.target.name)
    console.print(recipes_table(lines, f"h{bars}", title))
    console.print(claims_table(lines))
    if spec.settings.left_out:
        console.print(f"not run  {', '.join(spec.settings.left_out)}")
    picture = forest(lines, f"h{bars}", path / "ablation.png")
    text = _markdown(spec, found, lines, command)
    write_atomic(path / "ablation.md", "\n".join(text).encode())
    content = {
        "command": command,
        "target": spec.base.target.name,
        "seeds": list(seeds),
        "horizon": bars,
        "lines": [asdict(line) for line in lines],
        "cost": dict(found.cost),
        "failed": dict(found.failed),
    }
    write_json(path / "ablation.json", content)
    show_line(console, "picture", picture)
    show_line(console, "table", path / "ablation.md")
    show_line(console, "figures", path / "ablation.json")


def recipes_table(lines: Sequence[Line], horizon: str, title: str) -> Table:
    """Every recipe beside the plain one, at one horizon."""
    names = ("recipe", "seeds", "accuracy", "points", "log loss", "ECE", "train", "memory", "compute")
    table = new_table(title, CAPTION, names, ("recipe",))
    table.columns[0].no_wrap = False
    for line in lines:
        is_plain, differences = line.name == "plain", line.differences.get(horizon, {})
        speed, memory = line.costs["train_speed"], line.costs["memory"]
        table.add_row(
            *_level(line, horizon),
            "" if is_plain else interval_text(differences.get("accuracy"), 2),
            "" if is_plain else _signed(differences.get("log_loss"), 4),
            "" if is_plain else _signed(differences.get("ece"), 4),
            "" if speed is None else f"{speed.mean:.2f}x",
            "" if memory is None else f"{memory.mean:.2f}x",
            "" if line.compute is None else f"{line.compute:.1f}x",
        )
    return table


def claims_table(lines: Sequence[Line]) -> Table:
    """Every claim beside what was measured, and the verdict."""
    table = new_table("What is claimed, and what was measured")
    for name in ("technique", "claimed", "measured", "verdict", "why"):
        table.add_column(name, overflow="fold", no_wrap=name == "verdict")
    for row in _claims(lines):
        table.add_row(*row, style=STYLES.get(row[3]))
    return table


def _level(line: Line, horizon: str) -> list[str]:
    """A recipe's title, seeds and accuracy as text."""
    accuracy = percent(line.level.get(horizon, {}).get("accuracy")) if line.seeds else "not run"
    return [line.title, str(line.seeds) if line.seeds else "", accuracy]


def _claims(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Each claim as text: technique, claimed, measured, verdict, why."""
    return [
        (
            line.title if claim is line.claims[0] else "",
            claim.claim.says or f"{MEASURES[claim.claim.measure].title}: {claim.claim.minimum:g}",
            measured_text(claim),
            claim.verdict.word,
            line.note if claim.measured is None and line.note else claim.verdict.why,
        )
        for line in lines
        for claim in line.claims
    ]


def _markdown(spec: AblationSpec, found: Found, lines: Sequence[Line], command: str) -> list[str]:
    """The claims with their verdicts, every recipe at every horizon, what it cost."""
    first = spec.settings.horizon
    heading = f"# Ablation{of_target(spec.base.target.name)}"
    text = [heading, "", "```", command, "```", "", RULES, f"## Claims, at {first} bars", ""]
    text += markdown_table(("technique", "claimed", "measured, mean [95%]", "verdict", "why"), _claims(lines))
    columns = (
        "recipe", "seeds", "accuracy", "points above plain", "gap closed, points", "log loss",
        "calibrated", "ECE", "calibrated", "averages kept",
    )  # fmt: skip
    for bars in (first, *(bars for bars in spec.base.data.horizons if bars != first)):
        rows = [_recipe(line, f"h{bars}") for line in lines]
        text += ["", f"## Recipes at {bars} bars", "", _levels(lines[0], f"h{bars}"), ""]
        text += markdown_table(columns, rows)
    if spec.settings.left_out:
        text += ["", f"Not run: {', '.join(spec.settings.left_out)}."]
    text += ["", "## Cost over the plain recipe", "", _cost_note(found), ""]
    costs = []
    for line in lines:
        measured = [line.costs[key] for key in ("train_speed", "memory", "inference_speed")]
        if any(measured) or line.compute:
            compute = "" if line.compute is None else f"{line.compute:.1f}"
            shown = [interval_text(cost, 2, signed=False) for cost in measured]
            costs.append((line.title, *shown, compute, line.note))
    text += markdown_table(
        ("recipe", "training speed", "peak memory of steps", "forecast speed", "compute", ""), costs
    )
    if found.failed:
        text += ["", "## Failed", "", *(f"- {path}: {why}" for path, why in found.failed.items())]
    return [*text, "", "![Differences with their intervals, and the claims](ablation.png)", ""]


def _levels(plain: Line, horizon: str) -> str:
    level = plain.level[horizon]
    limit = level.get("limit_accuracy")
    known = f", the limit {percent(limit)}, gap closed {percent(level['gap_closed'], 0)}" if limit else ""
    return f"Plain: {percent(level['accuracy'])}; the majority class {percent(level['majority'])}{known}."


def _recipe(line: Line, horizon: str) -> list[str]:
    kept = ", ".join(f"{name} {n} of {line.seeds}" for name, n in line.chosen.items() if n)
    found, is_plain = line.differences[horizon], line.name == "plain"
    shown = ["" if is_plain else interval_text(found[key], digits) for key, digits in DIGITS.items()]
    return [*_level(line, horizon), *shown, kept]


def _cost_note(found: Found) -> str:
    cost = found.cost
    if not cost:
        return "Not measured."
    clock = "time on the GPU" if cost["device"] == "cuda" else "processor time of one thread"
    plain = cost["train_windows_per_second"]["plain"]
    return (
        f"On {cost['device']}, {clock}, all recipes in turn, {cost['rounds']} rounds on ready batches; "
        f"plain trains {plain:,.0f} windows/s. Memory: steps in a process of their own, weights and "
        f"optimizer included. Forecast: {WINDOWS} windows at once, with their views. Compute: windows seen "
        f"in training, with those of teachers, trials and range tests."
    )


def measured_text(line: ClaimLine) -> str:
    """`-0.42 [-1.10, 0.26] points accuracy`."""
    measure = MEASURES[line.claim.measure]
    if line.measured is None:
        return "n/a"
    unit = f" {measure.unit}" if measure.unit == "points" else measure.unit
    signed = measure.unit == "points" or line.claim.measure in ("ece", "log_loss")
    return f"{interval_text(line.measured, measure.digits, signed)}{unit} {line.claim.measure}"


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
