"""The page of an evaluation in a folder of its own, such as that of the folds of a walk-forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockenh.commands.evaluate.pictures import DETAILS
from stockenh.commands.evaluate.tables import part_line
from stockenh.commands.report.reading import damaged
from stockenh.commands.report.run import evaluation_tabs, part_tables, verdict_blocks
from stockenh.report.page import Page, Tab, Words
from stockenh.report.table import of_target
from stockenh.storage.untrusted import read_json


def evaluation_page(folder: Path) -> Page:
    """From evaluation.json and the series beside it."""
    found: dict[str, Any] = read_json(folder / "evaluation.json", dict[str, Any])
    with damaged(folder):
        series: dict[str, Any] = read_json(folder / DETAILS, dict[str, Any])
        runs = [f"{run['weights']} weights of {run['run']}" for run in found["runs"]]
        bootstrap = found["bootstrap"]
        how = (
            f"95%: moving-block bootstrap over dates, {bootstrap['resamples']:,} draws of blocks of "
            f"{bootstrap['block']} dates"
        )
        overview = [*verdict_blocks(found), Words([f"Evaluated on {part_line(found)}. {how}."]),
                    Words(runs, "Runs")]  # fmt: skip
        tabs = [
            Tab("Overview", overview),
            *evaluation_tabs(found, series),
            Tab("Years and symbols", part_tables(series, of_target(found["target"]))),
        ]
        facts = [("target", str(found["target"])), ("windows", f"{found['windows']:,}"),
                 ("symbols", f"{found['symbols']:,}"), ("dates", f"{found['dates']:,}"),
                 ("from", str(found["from"])), ("to", str(found["to"]))]  # fmt: skip
        return Page(f"Evaluation {folder.absolute().name}", facts, tabs)
