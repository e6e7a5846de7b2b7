"""The page of a forecast in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockenh.commands.report.reading import damaged
from stockenh.commands.report.run import forecast_blocks
from stockenh.report.page import Block, Page, Tab, Table, Words
from stockenh.report.table import Grid, number, percent
from stockenh.storage.untrusted import read_json

FILE = "forecast.json"


def forecast_page(folder: Path) -> Page:
    """From forecast.json: the newest bars, the forecasts, and what was said of their skill."""
    found: dict[str, Any] = read_json(folder / FILE, dict[str, Any])
    with damaged(folder):
        newest = found["newest"]
        blocks: list[Block] = []
        if found["notes"]:
            blocks.append(Words([str(line) for line in found["notes"]]))
        blocks += forecast_blocks(newest)
        horizons = newest["horizons"]
        rows = [
            (
                of["symbol"], of["dates"][-1], str(of["rank"] or ""), *(percent(p) for p in of["up_prob"]),
                *("" if of["ret"] is None else percent(r, 2) for r in of["ret"] or [0.0] * len(horizons)),
                number(of["bars"][-1][3], 2),
            )
            for of in newest["symbols"]
        ]  # fmt: skip
        columns = ("symbol", "newest bar", f"rank at {horizons[-1]} bars", *(f"up in {h}" for h in horizons),
                   *(f"return in {h}" for h in horizons), "close")  # fmt: skip
        blocks.append(Table(Grid("Forecasts", columns, [rows], left=("symbol", "newest bar"))))
        facts = [("run", str(found["run"])), ("weights", str(found["title"])), ("as of", str(newest["asof"]))]
        return Page(f"Forecast as of {newest['asof']}", facts, [Tab("Forecasts", blocks)])
