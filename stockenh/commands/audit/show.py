"""The table of a leakage audit, on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from stockenh.errors import printable
from stockenh.evaluation.leakage import FAIL, INFO, NOT_APPLICABLE, PASS, WARN, Check, leaks
from stockenh.report.figure import COLOURS, GREY, grouped_bars, legend_above, new_figure, or_nan, save
from stockenh.report.table import interval, markdown_header, markdown_row, percent
from stockenh.report.terminal import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_STYLES = {FAIL: "red", WARN: "yellow", PASS: "green", INFO: "cyan", NOT_APPLICABLE: "dim"}


def audit_table(checks: Sequence[Check]) -> Table:
    """A row per check; under what was measured stands what to do about it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("what was measured", overflow="fold", ratio=1)
    for check in checks:
        advice = styled(f"\n{check.advice}" if check.advice else "", "dim")
        measured = Text.assemble(printable(check.measured), advice)
        table.add_row(check.name, styled(check.finding, _STYLES[check.finding]), measured)
    return table


def verdict(checks: Sequence[Check]) -> str:
    """One sentence: the leaks by name, or that none was found."""
    found = leaks(checks)
    count = len(found) or sum(check.finding in (PASS, WARN) for check in checks)
    many = "1 check" if count == 1 else f"{count} checks"
    return f"{many} found a leak: {', '.join(found)}" if found else f"no leak found by {many}"


def markdown(checks: Sequence[Check], found: Mapping[str, Any]) -> str:
    """The report: verdict, all rows, and both splits beside each other."""
    lines = [
        "# Leakage audit", "", f"{found['weights']} weights of `{found['run']}`", "",
        f"**{verdict(checks)[0].upper()}{verdict(checks)[1:]}.**", "",
        *markdown_header("check", "finding", "what was measured", "what to do"),
        *(markdown_row((c.name, c.finding, c.measured, c.advice)) for c in checks),
    ]  # fmt: skip
    if found["splits"]:
        lines += [
            "", "## Random against purged split", "",
            "Accuracy on the context features alone: the run's split, and its windows split at random.",
            "",
            *markdown_header("model", "bars", "split", "n", "accuracy", "95% interval", "majority"),
            *(
                markdown_row((
                    model, horizon.removeprefix("h"), split, f"{of['n']:,}", percent(of["accuracy"]),
                    interval(of["accuracy_low"], of["accuracy_high"]), percent(of["majority"]),
                ))
                for model, by_horizon in found["splits"].items()
                for horizon, splits in by_horizon.items()
                for split, of in splits.items()
            ),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


MOST_INPUTS = 12
_SPLITS = {"purged": "as the run splits", "random": "split at random"}


def audit_chart(found: Mapping[str, Any], path: Path) -> Path:
    """Correlations beside their limits, and accuracy under both splits; returns the path written.

    found: what audit.json holds: `correlations`, `correlation_limits` and `splits`.
    """
    splits = found["splits"]
    figure = new_figure(12 if splits else 6.5, 5.4)
    _correlations(figure.add_subplot(1, 2 if splits else 1, 1), found)
    if splits:
        _gap(figure.add_subplot(1, 2, 2), splits)
    result = f"leaks found: {', '.join(found['leaks'])}" if found["leaks"] else "no leak found"
    return save(figure, f"Leakage audit: {result}", path)


def _correlations(axes: Axes, found: Mapping[str, Any]) -> None:
    """The inputs closest to a label, a bar per horizon, and the limit of each horizon."""
    limits, inputs = found["correlation_limits"], found["correlations"]
    sizes = {
        h: {name: max(abs(by[h]["spearman"]), abs(2 * by[h]["auc"] - 1)) for name, by in inputs.items()}
        for h in limits
    }
    shown = sorted(inputs, key=lambda name: -max(by_name[name] for by_name in sizes.values()))[:MOST_INPUTS]
    grouped_bars(axes, shown, sizes)
    for place, limit in enumerate(limits.values()):
        axes.axvline(limit, color=COLOURS[place % len(COLOURS)], linestyle="--", linewidth=1.2)
    axes.set_xlim(0, 1)
    axes.set_xlabel(
        "rank correlation with a label, or 2 AUC - 1 (the larger)\ndashed: implausible from there on"
    )
    axes.set_title("inputs closest to a label", fontsize=10.5, pad=22)
    legend_above(axes)


def _gap(axes: Axes, splits: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Accuracy by model and horizon under both splits with 95% intervals, and the majority class of each."""
    cells = [(model, horizon, by) for model, of in splits.items() for horizon, by in of.items()]
    for place, (split, label) in enumerate(_SPLITS.items()):
        offset = 0.36 * (place - 0.5)
        for x, (_, _, by) in enumerate(cells):
            if split not in by:
                continue
            of, at, first = by[split], x + offset, x == 0
            axes.bar(
                at, or_nan(of["accuracy"]), width=0.34, color=COLOURS[place], label=label if first else None
            )
            axes.plot([at, at], [or_nan(of["accuracy_low"]), or_nan(of["accuracy_high"])], color="black",
                      linewidth=1.2, zorder=3)  # fmt: skip
            axes.plot([at - 0.17, at + 0.17], [or_nan(of["majority"])] * 2, color=GREY, linewidth=2,
                      zorder=4, label="majority class" if first and not place else None)  # fmt: skip
    short = {"logistic regression": "logistic", "gradient boosting": "boosting"}
    names = [f"{short.get(model, model)}\n{horizon.removeprefix('h')}" for model, horizon, _ in cells]
    axes.set_xticks(range(len(cells)), names, fontsize=9)
    values = [or_nan(of["accuracy"]) for _, _, by in cells for of in by.values()]
    axes.set_ylim(max(0.0, min([0.45, *values]) - 0.02), min(1.0, max([0.6, *values]) + 0.08))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_xlabel("model on the context features, bars ahead")
    axes.set_title("accuracy of direction on test", fontsize=10.5, pad=22)
    legend_above(axes)
