"""What came of an ablation: tables on the terminal, ablation.md, ablation.json, ablation.png."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from stockenh.ablation.asked import Ablation
from stockenh.ablation.figures import Found, collect
from stockenh.ablation.lines import lines_of
from stockenh.ablation.markdown import write_markdown
from stockenh.files import write_json
from stockenh.plots.ablation import forest
from stockenh.tables.ablation import Line, claims_table, recipes_table


def conclude(asked: Ablation, out: Console) -> list[Line]:
    """Writes and shows the table from what lies in the folder; returns its lines."""
    found = collect(asked.folder, asked.plan)
    lines = lines_of(asked.plan, found, asked.base, asked.configs, asked.settings.horizon)
    bars = asked.settings.horizon
    seeds = len(asked.plan.seeds)
    title = f"Recipes on the test part at {bars} bars, {seeds} seed{'s' * (seeds > 1)}"
    out.print(recipes_table(lines, f"h{bars}", title))
    out.print(claims_table(lines))
    if asked.settings.left_out:
        out.print(f"not run  {', '.join(asked.settings.left_out)}", markup=False)
    write_markdown(asked, found, lines, _command(asked))
    write_figures(asked, found, lines)
    picture = forest(lines, f"h{bars}", asked.folder.picture)
    for name, path in (
        ("picture", picture),
        ("table", asked.folder.table),
        ("figures", asked.folder.figures),
    ):
        out.print(f"{name:<8} {path}", soft_wrap=True, markup=False)
    return lines


def write_figures(asked: Ablation, found: Found, lines: Sequence[Line]) -> None:
    """Writes ablation.json: every line, every claim, the costs."""

    content = {
        "command": _command(asked),
        "seeds": list(asked.plan.seeds),
        "horizon": asked.settings.horizon,
        "lines": [asdict(line) for line in lines],
        "cost": dict(found.cost),
        "failed": dict(found.failed),
    }
    write_json(asked.folder.figures, content)


def _command(asked: Ablation) -> str:
    return shlex.join(["stockenh", "ablate", *asked.folder.read()["arguments"]])
