"""The end of an ablation: its tables shown, its files, picture and page written."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from rich.console import Console

from stockenh.commands.ablate.lines import lines_of
from stockenh.commands.ablate.report import claims_table, forest, markdown, recipes_table
from stockenh.commands.ablate.results import collect
from stockenh.commands.ablate.spec import AblationSpec
from stockenh.commands.multirun.launch import show_line
from stockenh.commands.report.pages import leave_page
from stockenh.errors import counted
from stockenh.report.table import of_target
from stockenh.storage.files import write_atomic, write_json


def conclude(spec: AblationSpec, console: Console) -> None:
    """Writes and shows the table, the figures and the picture from what lies in the folder."""
    found = collect(spec.folder, spec.plan, spec.base.data.horizons)
    bars, seeds, path = spec.settings.horizon, spec.plan.seeds, spec.folder.path
    lines = lines_of(spec.plan, found, spec.base, spec.configs, bars)
    command = shlex.join(["stockenh", "ablate", *spec.folder.read()["arguments"]])
    title = f"Recipes on the test part at {counted(bars, 'bar')}, {counted(len(seeds), 'seed')}"
    title += of_target(spec.base.target.name)
    console.print(recipes_table(lines, f"h{bars}", title, console.width))
    console.print(claims_table(lines))
    if spec.settings.left_out:
        console.print(f"not run  {', '.join(spec.settings.left_out)}")
    picture = forest(lines, f"h{bars}", path / "ablation.png")
    text = markdown(spec, found, lines, command)
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
    leave_page(path, console)
