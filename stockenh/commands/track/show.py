"""Tables, picture and page of a track record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from stockenh.commands.report.reading import damaged
from stockenh.report.figure import COLOURS, GREY, bars_text, legend_above, new_figure, or_nan, save
from stockenh.report.page import Block, Page, Picture, Tab, Table, Verdict, Words
from stockenh.report.table import Grid, as_table, between, interval, number, percent
from stockenh.report.terminal import print_files, print_line
from stockenh.storage.ledger import LATE_DAYS
from stockenh.storage.untrusted import read_json

FILE = "track.json"
NAMES = {"rank_ic": "rank IC", "accuracy": "accuracy", "log_loss": "log loss"}

Found = Mapping[str, Any]


def show(found: Found, directory: Path, console: Console) -> None:
    """Prints every run's figures and remarks, and draws the picture."""
    for grid in grids(found):
        console.print(as_table(grid))
        console.print()
    for line in remarks(found):
        print_line(console, line)
    files = [directory / FILE]
    if has_months(found):
        files.append(months_chart(found, directory / "track.png"))
    print_files(console, "track", files)


def grids(found: Found) -> list[Grid]:
    """Realised beside promised, and by month."""
    made = []
    for run in found["runs"]:
        of = f"{run['run']}, {run['from']} to {run['to']}, target {run['target']}"
        rows, months = [], []
        for horizon, record in run["horizons"].items():
            r, bars = record["realised"], horizon.removeprefix("h")
            if r is None:
                rows.append((bars, str(record["recorded"]), "0", *["n/a"] * 9))
                continue
            promised = record["promised"]
            rows.append(
                (
                    bars, f"{record['recorded']:,}", f"{r['n']:,}", number(r["rank_ic"], 3),
                    between(r["rank_ic_low"], r["rank_ic_high"], 1, 3), number(promised["rank_ic"], 3),
                    number(r["log_loss"]), number(promised["log_loss"]), percent(r["accuracy"]),
                    interval(r["accuracy_low"], r["accuracy_high"]), percent(promised["accuracy"]),
                    percent(r["majority"]),
                )
            )  # fmt: skip
            months += [
                (month, bars, f"{m['n']:,}", number(m["rank_ic"], 3), number(m["log_loss"]),
                 number(m["ece"], 3), percent(m["accuracy"]), percent(m["majority"]),
                 percent(m["coverage"], 0))
                for month, m in record["by_month"].items()
            ]  # fmt: skip
        made.append(
            Grid(
                f"Track record of {of}",
                ("bars", "recorded", "known", "rank IC", "95%", "test", "log loss", "test", "accuracy", "95%",
                 "test", "majority"),
                [rows],
                "known: forecasts whose horizon has passed. test: the figure of the run's own test part, "
                "recorded with the forecast. majority: share of the larger class, known only afterwards",
            )
        )  # fmt: skip
        if months:
            made.append(
                Grid(
                    f"By month of the forecast, {run['run']}",
                    ("month", "bars", "n", "rank IC", "log loss", "ECE", "accuracy", "majority", "covered"),
                    [months],
                    "covered: share of returns within the forecast's 80% interval",
                    ("month",),
                )
            )
    return made


def remarks(found: Found) -> list[str]:
    """What a reader must know: changed rows, what differs beyond chance, what is left out."""
    lines = []
    if found["changed"]:
        lines.append(f"warning  {found['changed']}")
    for run in found["runs"]:
        for horizon, record in run["horizons"].items():
            for name, was, promise in record["beyond_chance"]:
                lines.append(
                    f"warning  {bars_text(horizon)}: {NAMES[name]} {was:.3f} differs beyond chance from "
                    f"{promise:.3f} on the run's test part"
                )
    if found["pending"]:
        lines.append(f"pending  {found['pending']:,} forecasts: too few bars since, or a raw split in them")
    if found["unmatched"]:
        lines.append(f"n/a      {found['unmatched']:,} forecasts have no bar of their date here")
    if found["late"]:
        lines.append(
            f"late     {found['late']:,} forecasts were recorded more than {LATE_DAYS} days after their bar, "
            f"when what came of them could be known"
        )
    if found["adjusted"]:
        some = ", ".join(found["adjusted"][:5])
        lines.append(
            f"adjusted prices of {len(found['adjusted'])} symbols were adjusted since ({some}); returns are "
            f"of the bars as they are now"
        )
    return lines


def has_months(found: Found) -> bool:
    return any(record["by_month"] for run in found["runs"] for record in run["horizons"].values())


def months_chart(found: Found, path: Path) -> Path:
    """Log loss by month of the forecast beside that of the test part; returns the path."""
    run = found["runs"][-1]
    months = sorted({month for record in run["horizons"].values() for month in record["by_month"]})
    figure = new_figure(9, 4.4)
    axes = figure.add_subplot()
    step = 0.6 / max(len(run["horizons"]), 2)
    for place, (horizon, record) in enumerate(run["horizons"].items()):
        colour, shift = COLOURS[place % len(COLOURS)], step * (place - (len(run["horizons"]) - 1) / 2)
        for number_, month in enumerate(months):
            of = record["by_month"].get(month, {})
            label = f"{bars_text(horizon)} ahead" if number_ == 0 else None
            low, mean, high = (or_nan(of.get(f"log_loss{end}")) for end in ("_low", "", "_high"))
            axes.plot([number_ + shift] * 2, [low, high], color=colour, linewidth=1.8)
            axes.plot([number_ + shift], [mean], "o", color=colour, markersize=5.5, label=label)
        axes.axhline(or_nan(record["promised"]["log_loss"]), color=colour, linestyle="--", linewidth=1)
    axes.plot([], [], color=GREY, linestyle="--", label="on the run's test part")
    axes.set_xticks(range(len(months)), months)
    axes.set_xlim(-0.6, len(months) - 0.4)
    axes.set_ylabel("log loss")
    legend_above(axes)
    return save(figure, f"Log loss by month of the forecast\n{run['run']}; lines: 95%", path)


def track_page(folder: Path) -> Page:
    """From track.json."""
    found: dict[str, Any] = read_json(folder / FILE, dict[str, Any])
    with damaged(folder):
        blocks: list[Block] = []
        if found["changed"]:
            blocks.append(Verdict(f"The ledger was changed: {found['changed']}.", "bad"))
        blocks.append(Words([line.replace("  ", " ") for line in remarks(found)]))
        if has_months(found):
            blocks.append(Picture("months", "log loss by month", partial(months_chart, found)))
        blocks += [Table(grid) for grid in grids(found)]
        facts = [("ledger", str(found["ledger"])), ("forecasts", f"{found['rows']:,}")]
        return Page("Track record", facts, [Tab("Track record", blocks)])
