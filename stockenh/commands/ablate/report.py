"""Tables and picture of an ablation, on the terminal and as Markdown, with the rules of its verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from stockenh.commands.ablate.claims import FAILS, HOLDS, MEASURES, UNMEASURED, ClaimLine
from stockenh.commands.ablate.lines import Line
from stockenh.commands.ablate.perform import WINDOWS
from stockenh.commands.ablate.results import Found
from stockenh.commands.ablate.spec import AblationSpec
from stockenh.errors import counted
from stockenh.evaluation.paired import Interval
from stockenh.report.figure import COLOURS, GREY, as_drawn, bars_text, legend_above, new_figure, save
from stockenh.report.table import (
    Grid,
    as_table,
    leave_out,
    markdown_table,
    new_table,
    number,
    of_target,
    percent,
)

RULES = """\
Every difference is paired: the same seed, the same rows, the technique against the plain recipe. Its 95%
interval is over seeds and dates together: another seed and another test part would both give another figure.
Costs vary by round only, curves of the loss by seed only. A claim is tested against its minimum, and p is
corrected for the number of claims (Holm 1979). With p at most 0.05 the claim holds, or does not hold, by the
side of the minimum that the figure lies on. Otherwise the verdict is open. So an interval of 95% may leave
out the minimum where the verdict is open: of many such intervals some miss by chance. A technique that makes
weights of its own is judged by these, all others by the weights that validation chose. Accuracy kept is of
the accuracy above the majority class. An ablation compares fixed recipes and selects nothing, so these are
figures of the test part; a search chooses its trial on validation.
"""

CAPTIONS = {
    "points": "points: accuracy above plain, mean [95% over {over}]",
    "AUC": "log loss, AUC, ECE: above plain's, of the model's own probabilities; *: 0 is outside 95%",
    "train": "train, memory: over plain",
    "compute": "compute: windows seen in training over plain's, with teachers, trials and range tests",
}  # by a column that it is about
STYLES = {HOLDS: "green", FAILS: "red"}
# Differences in the Markdown table, and their digits.
DIGITS = {
    "accuracy": 2, "gap_closed": 1, "log_loss": 4, "log_loss_calibrated": 4, "auc": 4, "ece": 4,
    "ece_calibrated": 4,
}  # fmt: skip
CLAIM_COLUMNS = ("technique", "claimed", "measured", "p", "verdict", "why")
TITLE_WIDTH = 24  # characters
WIDE = 132  # characters, with room for every interval


def recipes_table(lines: Sequence[Line], horizon: str, title: str, width: int = 80) -> Table:
    """See `recipes_grid`."""
    return as_table(recipes_grid(lines, horizon, title, width))


def recipes_grid(lines: Sequence[Line], horizon: str, title: str, width: int = 80) -> Grid:
    """Every recipe beside the plain one, at one horizon.

    A narrow table has fewer columns, and no intervals but those of accuracy.
    """
    text = interval_text if width >= WIDE else _starred
    found = [("" if line.name == "plain" else None, line.differences.get(horizon, {})) for line in lines]
    differences = {
        head: [empty if empty is not None else show(of.get(key), digits) for empty, of in found]
        for head, key, digits, show in (
            ("points", "accuracy", 2, interval_text),
            ("log loss", "log_loss", 4, text),
            ("AUC", "auc", 4, text),
            ("ECE", "ece", 4, text),
        )
    }
    columns = {
        "recipe": [textwrap.fill(line.title, TITLE_WIDTH) for line in lines],
        "accuracy": [_accuracy(line, horizon) for line in lines],
        **differences,
        "train": [_times(line.costs["train_speed"]) for line in lines],
        "memory": [_times(line.costs["memory"]) for line in lines],
        "compute": ["" if line.compute is None else f"{line.compute:.1f}x" for line in lines],
    }
    left_out = leave_out(columns, ("memory", "train", "compute", "ECE"), width)
    shown = next((accuracy for _, of in found if (accuracy := of.get("accuracy")) is not None), None)
    over = shown.over if shown is not None and shown.over else "seeds and dates"
    caption = ". ".join(text for name, text in CAPTIONS.items() if name in columns).format(over=over)
    caption += f". No room for {', '.join(left_out)}: see ablation.md" if left_out else ""
    rows = [*zip(*columns.values(), strict=True)]
    return Grid(title, tuple(columns), [rows], caption, ("recipe",))


def claims_table(lines: Sequence[Line]) -> Table:
    """Every claim beside what was measured, and the verdict."""
    grid = claims_grid(lines)
    table = new_table(grid.title, grid.caption)
    for name in grid.columns:
        table.add_column(name, overflow="fold", no_wrap=name == "verdict")
    for block in grid.blocks:
        for row in block:
            table.add_row(*row, style=STYLES.get(row[4]))
    return table


def claims_grid(lines: Sequence[Line]) -> Grid:
    """The same, to be shown in any way."""
    notes = [f"{line.title}: {line.judged}" for line in lines if line.weights and line.seeds]
    caption = f"p: of the claim's minimum, corrected for the number of claims. {'. '.join(notes)}"
    title = "What is claimed, and what was measured"
    return Grid(title, CLAIM_COLUMNS, [_claims(lines)], caption, CLAIM_COLUMNS)


def _accuracy(line: Line, horizon: str) -> str:
    return percent(line.level.get(horizon, {}).get("accuracy")) if line.seeds else "not run"


def _claims(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Each claim as text, see `CLAIM_COLUMNS`."""
    return [
        (
            line.title if claim is line.claims[0] else "",
            claim.claim.says or f"{MEASURES[claim.claim.measure].title}: {claim.claim.minimum:g}",
            measured_text(claim),
            "" if claim.p is None else _p_text(claim.p),
            claim.verdict.word,
            line.note if claim.verdict.why == UNMEASURED and line.note else claim.verdict.why,
        )
        for line in lines
        for claim in line.claims
    ]


def markdown(spec: AblationSpec, found: Found, lines: Sequence[Line], command: str) -> list[str]:
    """The claims with their verdicts, every recipe at every horizon, what it cost."""
    first = spec.settings.horizon
    heading = f"# Ablation{of_target(spec.base.target.name)}"
    text = [heading, "", "```", command, "```", "", RULES, f"## Claims, at {first} bars", ""]
    claimed = ("technique", "claimed", "measured, mean [95%]", "p, corrected", "verdict", "why")
    text += markdown_table(claimed, _claims(lines))
    columns = (
        "recipe", "seeds", "accuracy", "points above plain", "gap closed, points", "log loss",
        "calibrated", "AUC", "ECE", "calibrated", "weights",
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
    return (
        f"Plain: {percent(level['accuracy'])}, log loss {number(level['log_loss'])}, AUC "
        f"{number(level['auc'], 3)}; the majority class {percent(level['majority'])}{known}."
    )


def _recipe(line: Line, horizon: str) -> list[str]:
    found, is_plain = line.differences[horizon], line.name == "plain"
    shown = ["" if is_plain else interval_text(found[key], digits) for key, digits in DIGITS.items()]
    seeds = str(line.seeds) if line.seeds else ""
    return [line.title, seeds, _accuracy(line, horizon), *shown, line.judged]


def _cost_note(found: Found) -> str:
    cost = found.cost
    if not cost:
        return "Not measured."
    clock = "time on the GPU" if cost["device"] != "cpu" else "processor time of one thread"
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
    name, signed = line.claim.measure.replace("_", " "), line.claim.measure in DIGITS
    return f"{interval_text(line.measured, measure.digits, signed)}{unit} {name}"


def interval_text(found: Interval | None, digits: int, signed: bool = True) -> str:
    """`+0.42 [-0.10, +0.94]`; without the ends where there are none."""
    if found is None:
        return "n/a"
    sign = "+" if signed else ""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.{digits}f}"
    return f"{found.mean:{sign}.{digits}f} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def _starred(found: Interval | None, digits: int) -> str:
    """`+0.0042*`, the star where the interval leaves out 0."""
    if found is None:
        return "n/a"
    is_out = found.low is not None and found.high is not None and not found.low <= 0 <= found.high
    return f"{found.mean:+.{digits}f}{'*' if is_out else ' '}"


def _times(found: Interval | None) -> str:
    return "" if found is None else f"{found.mean:.2f}x"


def _p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


MARGIN = 0.15  # of the span of all 95% intervals, on both sides of the picture
_LOOKS = {HOLDS: (COLOURS[2], "o"), FAILS: (COLOURS[1], "X")}


def forest(lines: Sequence[Line], horizon: str, path: Path) -> Path:
    """Differences in accuracy with their intervals, of 95% and corrected for the number of claims, and the
    claimed ranges; returns the path written."""
    shown = [line for line in lines if line.name != "plain" and line.differences[horizon]["accuracy"]]
    figure = new_figure(9, 2.4 + 0.36 * len(shown))
    axes = figure.add_subplot()
    labelled: set[str] = set()

    def once(label: str) -> str | None:
        fresh = label not in labelled
        labelled.add(label)
        return label if fresh else None

    over, spans = "seeds and dates", [0.0]
    for place, line in enumerate(reversed(shown)):
        found = line.differences[horizon]["accuracy"]
        assert found is not None
        over = found.over or over
        claim = next((c for c in line.claims if c.claim.measure == "accuracy"), None)
        if claim is not None and claim.claim.least is not None:
            most = claim.claim.most if claim.claim.most is not None else claim.claim.least + 1.0
            axes.barh(place, most - claim.claim.least, left=claim.claim.least, height=0.62,
                      color=COLOURS[5], alpha=0.35, label=once("claimed"), zorder=1)  # fmt: skip
            spans += [claim.claim.least, most]
        verdict = claim.verdict.word if claim is not None else "no claim on accuracy"
        colour, marker = _LOOKS.get(verdict, (GREY if claim is None else COLOURS[0], "o"))
        label = once(f"measured, {verdict}" if claim is not None else verdict)
        spans += [end for end in (found.low, found.mean, found.high) if end is not None]
        axes.plot(found.mean, place, marker, color=colour, markersize=6, label=label, zorder=4)
        for ends, width in (
            (claim.corrected if claim else (None, None), 1.0),
            ((found.low, found.high), 2.6),
        ):
            if (low := ends[0]) is not None and (high := ends[1]) is not None:
                axes.plot((low, high), (place, place), color=colour, linewidth=width, zorder=3)
    axes.axvline(0, color=GREY, linewidth=1.2, zorder=2)
    axes.set_yticks(range(len(shown)), [as_drawn(line.title) for line in reversed(shown)])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    # a corrected interval of few seeds may be a hundred times as long as the others
    margin = MARGIN * (max(spans) - min(spans)) + 0.1
    axes.set_xlim(min(spans) - margin, max(spans) + margin)
    axes.set_xlabel(
        f"accuracy above the plain recipe, points of the test part\n"
        f"thick: 95% over {over}; thin: corrected for the number of claims, and decides"
    )
    axes.grid(axis="x", color="#E0E0E0", linewidth=0.8)
    legend_above(axes)
    seeds = max((line.seeds for line in shown), default=0)
    title = f"Techniques against the plain recipe at {bars_text(horizon)}, {counted(seeds, 'seed')}"
    return save(figure, title, path)
