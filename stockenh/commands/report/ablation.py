"""The page of an ablation, from ablation.json."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from stockenh.commands.ablate.lines import Line
from stockenh.commands.ablate.report import RULES, claims_grid, forest, recipes_grid
from stockenh.commands.report.reading import damaged
from stockenh.report.page import Code, Page, Picture, Tab, Table, Words
from stockenh.report.table import of_target
from stockenh.storage.untrusted import read_json, typed

WIDTH = 1000  # characters: a page has room for every column


def ablation_page(folder: Path) -> Page:
    """Claims with verdicts, recipes at every horizon, and the rules of the verdicts."""
    found: dict[str, Any] = read_json(folder / "ablation.json", dict[str, Any])
    with damaged(folder):
        lines = typed(list[Line], _with_infinity(found["lines"]), str(folder / "ablation.json"))
        first = f"h{found['horizon']}"
        horizons = [first, *(h for h in lines[0].level if h != first)]
        recipes = [
            Table(recipes_grid(lines, h, f"Recipes on the test part at {h.removeprefix('h')} bars", WIDTH))
            for h in horizons
        ]
        seeds = len(found["seeds"])
        tabs = [
            Tab("Claims", [Table(claims_grid(lines)), Picture("forest", "differences with intervals, and the "
                           "claims", partial(forest, lines, first)), Words(RULES.split("\n\n"))]),
            Tab("Recipes", recipes),
            Tab("Command", [Code(str(found["command"]))]),
        ]  # fmt: skip
        if found["failed"]:
            failed = [f"{path}: {why}" for path, why in found["failed"].items()]
            tabs.append(Tab("Failed", [Words(failed)]))
        facts = [("seeds", str(seeds)), ("verdicts at", f"{found['horizon']} bars")]
        return Page(f"Ablation{of_target(found['target'])}", facts, tabs)


def _with_infinity(value: Any) -> Any:
    """Containers without the degrees of freedom that JSON has as null, which are infinite by default."""
    if isinstance(value, dict):
        return {k: _with_infinity(v) for k, v in value.items() if v is not None or not k.startswith("dof")}
    return [_with_infinity(v) for v in value] if isinstance(value, list) else value
