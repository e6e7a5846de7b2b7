"""The table of an ablation as Markdown, with the rules by which it judges."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from stockenh.commands.ablate.cost import WINDOWS
from stockenh.commands.ablate.results import Found, collect, lines_of
from stockenh.commands.ablate.show import (
    Line,
    cells,
    claim_text,
    claims_table,
    forest,
    interval_text,
    measured_text,
    recipes_table,
    why_text,
)
from stockenh.commands.ablate.spec import AblationSpec
from stockenh.report.table import markdown_header, percent
from stockenh.storage.files import write_atomic, write_json

RULES = """\
Every difference is paired: the same seed, the same data, the technique against the plain recipe. The
interval is Student's 95% over the seeds: it tells what another seed would change, not what another test part
would. A claim holds where the whole interval reaches its minimum, does not hold where the whole interval
falls short of it, and otherwise it is undecided. An ablation compares fixed recipes and selects nothing, so
these are figures of the test part; a search chooses its trial on validation. One interval in twenty misses by
chance.
"""


def write_markdown(spec: AblationSpec, found: Found, lines: Sequence[Line], command: str) -> None:
    """Writes ablation.md: the claims with their verdicts, every recipe at every horizon, what it cost."""
    horizons = [f"h{bars}" for bars in spec.base.data.horizons]
    first = f"h{spec.settings.horizon}"
    horizons = [first, *(h for h in horizons if h != first)]
    text = ["# Ablation", "", "```", command, "```", "", RULES]
    text += [f"## Claims, at {spec.settings.horizon} bars", ""]
    text += markdown_header("technique", "claimed", "measured, mean [95%]", "verdict", "why")
    for line in lines:
        for at, claim in enumerate(line.claims):
            name = line.title if at == 0 else ""
            text.append(
                f"| {name} | {claim_text(claim)} | {measured_text(claim)} | {claim.verdict.word} | "
                f"{why_text(line, claim)} |"
            )
    for horizon in horizons:
        text += ["", f"## Recipes at {horizon.removeprefix('h')} bars", "", _levels(lines[0], horizon), ""]
        text += markdown_header(
            "recipe", "seeds", "accuracy", "points above plain", "gap closed, points", "log loss",
            "calibrated", "ECE", "calibrated", "averages kept",
        )  # fmt: skip
        text += [_recipe(line, horizon) for line in lines]
    if spec.settings.left_out:
        text += ["", f"Not run: {', '.join(spec.settings.left_out)}."]
    text += ["", "## Cost over the plain recipe", "", _cost_note(spec, found), ""]
    text += markdown_header(
        "recipe", "training speed", "peak memory of steps", "forecast speed", "compute", ""
    )
    for line in lines:
        speed, memory, forecast = (line.costs[k] for k in ("train_speed", "memory", "inference_speed"))
        if speed or memory or forecast or line.compute:
            compute = "" if line.compute is None else f"{line.compute:.1f}"
            shown = [interval_text(of, 2, signed=False) for of in (speed, memory, forecast)]
            text.append(f"| {line.title} | {' | '.join(shown)} | {compute} | {line.note} |")
    if found.failed:
        text += ["", "## Failed", "", *(f"- {path}: {why}" for path, why in found.failed.items())]
    text += ["", f"![Differences with their intervals, and the claims]({spec.folder.picture.name})", ""]
    write_atomic(spec.folder.table, "\n".join(text).encode())


def _levels(plain: Line, horizon: str) -> str:
    of = plain.level[horizon]
    limit = of.get("limit_accuracy")
    known = f", the limit {percent(limit)}, gap closed {percent(of['gap_closed'], 0)}" if limit else ""
    return f"Plain: {percent(of['accuracy'])}; the majority class {percent(of['majority'])}{known}."


def _recipe(line: Line, horizon: str) -> str:
    of = line.differences[horizon]
    kept = ", ".join(f"{name} {n} of {line.seeds}" for name, n in line.chosen.items() if n)
    is_plain = line.name == "plain"
    shown = [
        interval_text(of[key], digits) if not is_plain else ""
        for key, digits in (
            ("accuracy", 2), ("gap_closed", 1), ("log_loss", 4), ("log_loss_calibrated", 4), ("ece", 4),
            ("ece_calibrated", 4),
        )
    ]  # fmt: skip
    return f"| {' | '.join([*cells(line, horizon)[:3], *shown, kept])} |"


def _cost_note(spec: AblationSpec, found: Found) -> str:
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


def conclude(spec: AblationSpec, console: Console) -> list[Line]:
    """Writes and shows the table from what lies in the folder; returns its lines."""
    found = collect(spec.folder, spec.plan)
    lines = lines_of(spec.plan, found, spec.base, spec.configs, spec.settings.horizon)
    bars = spec.settings.horizon
    seeds = len(spec.plan.seeds)
    title = f"Recipes on the test part at {bars} bars, {seeds} seed{'s' * (seeds > 1)}"
    console.print(recipes_table(lines, f"h{bars}", title))
    console.print(claims_table(lines))
    if spec.settings.left_out:
        console.print(f"not run  {', '.join(spec.settings.left_out)}", markup=False)
    write_markdown(spec, found, lines, _command(spec))
    write_figures(spec, found, lines)
    picture = forest(lines, f"h{bars}", spec.folder.picture)
    for name, path in (
        ("picture", picture),
        ("table", spec.folder.table),
        ("figures", spec.folder.figures),
    ):
        console.print(f"{name:<8} {path}", soft_wrap=True, markup=False)
    return lines


def write_figures(spec: AblationSpec, found: Found, lines: Sequence[Line]) -> None:
    """Writes ablation.json: every line, every claim, the costs."""

    content = {
        "command": _command(spec),
        "seeds": list(spec.plan.seeds),
        "horizon": spec.settings.horizon,
        "lines": [asdict(line) for line in lines],
        "cost": dict(found.cost),
        "failed": dict(found.failed),
    }
    write_json(spec.folder.figures, content)


def _command(spec: AblationSpec) -> str:
    return shlex.join(["stockenh", "ablate", *spec.folder.read()["arguments"]])
