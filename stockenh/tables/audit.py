"""The table of a leakage audit, on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from stockenh.analysis.audit import FAIL, INFO, NOT_APPLICABLE, PASS, WARN, Check, leaks
from stockenh.tables.figures import interval, percent
from stockenh.tables.grid import markdown_header

_STYLES = {FAIL: "red", WARN: "yellow", PASS: "green", INFO: "cyan", NOT_APPLICABLE: "dim"}


def audit_table(checks: Sequence[Check]) -> Table:
    """A row per check; under what was measured stands what to do about it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("what was measured", overflow="fold", ratio=1)
    for check in checks:
        advice = f"\n[dim]{escape(check.advice)}[/]" if check.advice else ""
        style = _STYLES[check.finding]
        table.add_row(check.name, f"[{style}]{check.finding}[/]", escape(check.measured) + advice)
    return table


def audit_lines(checks: Sequence[Check], files: Iterable[Path]) -> list[str]:
    """The verdict, and where everything is."""
    return [f"verdict  {verdict(checks)}", *(f"audit    {file}" for file in files if file.exists())]


def verdict(checks: Sequence[Check]) -> str:
    """One sentence: the leaks by name, or that none was found."""
    found = leaks(checks)
    if found:
        return f"{_checks(len(found))} found a leak: {', '.join(found)}"
    done = sum(check.finding in (PASS, WARN) for check in checks)
    return f"no leak found by {_checks(done)}"


def markdown(checks: Sequence[Check], found: Mapping[str, Any]) -> str:
    """The report: verdict, all rows, and both splits beside each other."""
    lines = [
        "# Leakage audit", "", f"{found['weights']} weights of `{found['run']}`", "",
        f"**{verdict(checks)[0].upper()}{verdict(checks)[1:]}.**", "",
        *markdown_header("check", "finding", "what was measured", "what to do"),
        *(f"| {c.name} | {c.finding} | {_cell(c.measured)} | {_cell(c.advice)} |" for c in checks),
    ]  # fmt: skip
    if found["splits"]:
        lines += [
            "", "## Random against purged split", "",
            "Accuracy on the context features alone: the run's split, and its windows split at random.",
            "",
            *markdown_header("model", "bars", "split", "n", "accuracy", "95% interval", "majority"),
        ]  # fmt: skip
        for model, by_horizon in found["splits"].items():
            for horizon, splits in by_horizon.items():
                lines += [_scores(model, horizon, split, of) for split, of in splits.items()]
    return "\n".join(lines) + "\n"


def _scores(model: str, horizon: str, split: str, of: Mapping[str, Any]) -> str:
    cells = [
        model, horizon.removeprefix("h"), split, f"{of['n']:,}", percent(of["accuracy"]),
        interval(of["accuracy_low"], of["accuracy_high"]), percent(of["majority"]),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _checks(count: int) -> str:
    return "1 check" if count == 1 else f"{count} checks"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
