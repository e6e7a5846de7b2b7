"""Several runs beside each other: learning curves over each other, scores, differences of their configs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stockenh.commands.report.reading import damaged
from stockenh.commands.runs.listing import Run, differing, read
from stockenh.commands.runs.show import common_root, incomparable, plain
from stockenh.errors import ConfigError
from stockenh.report.figure import COLOURS, legend_above, line, new_figure, save
from stockenh.report.page import Block, Page, Picture, Tab, Table, Words
from stockenh.report.table import Grid, between, interval, number, percent
from stockenh.storage.run_folder import RunFolder

MOST = 24  # runs of a page
MOST_COLOURED = len(COLOURS)


def several_page(folders: Sequence[RunFolder]) -> Page:
    """The page of 2 to 24 runs. Raises ConfigError where there are more."""
    if len(folders) > MOST:
        raise ConfigError(f"{len(folders)} runs: a page compares at most {MOST}")
    runs = [read(folder.path) for folder in folders]
    root = common_root([run.path for run in runs])
    names = [os.path.relpath(run.path, root) for run in runs]
    with damaged(root):
        histories = {
            name: [dict(row) for row in folder.read_metrics()]
            for name, folder in zip(names, folders, strict=True)
        }
        first: list[Block] = []
        if why := incomparable(runs):
            first.append(Words([why]))
        first.append(Table(_scores(names, runs)))
        if any(histories.values()):
            draw = partial(curves_chart, histories)
            first.append(Picture("learning", "validation loss of every run by epoch", draw))
        different = differing(runs)
        rows = [(key, *(plain(value) for value in values)) for key, values in different.items()]
        config = Table(Grid("Settings that differ", ("key", *names), [rows], left=("key", *names)))
        same = Words(["All settings are the same."])
        tabs = [Tab("Overview", first), Tab("Config", [config if rows else same])]
        return Page(f"{len(runs)} runs of {root.name or root}", [], tabs)


def curves_chart(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> Path:
    """Validation loss of every run by epoch; of more runs than colours, the others are grey."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 4.8)
    axes = figure.add_subplot()
    for place, (name, history) in enumerate(histories.items()):
        colour = COLOURS[place] if place < MOST_COLOURED else "#BBBBBB"
        epochs = [row["epoch"] for row in history]
        label = name if place < MOST_COLOURED else None
        line(axes, epochs, [row["val_loss"] for row in history], colour, label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel("validation loss")
    legend_above(axes)
    return save(figure, "Validation loss by epoch", path)


def _scores(names: Sequence[str], runs: Sequence[Run]) -> Grid:
    blocks: list[list[tuple[str, ...]]] = [
        [
            (
                name, run.state, horizon.removeprefix("h"), number(of.get("rank_ic"), 3),
                between(of.get("rank_ic_low"), of.get("rank_ic_high"), 1, 3), number(of.get("auc"), 3),
                number(of.get("log_loss")), percent(of.get("accuracy")),
                interval(of.get("accuracy_low"), of.get("accuracy_high")), percent(of.get("majority")),
            )
            for horizon, of in run.scores.get("test", {}).items()
        ]
        or [(name, run.state, *["n/a"] * 8)]
        for name, run in zip(names, runs, strict=True)
    ]  # fmt: skip
    columns = ("run", "state", "bars", "rank IC", "IC 95%", "AUC", "log loss", "accuracy", "95%", "majority")
    return Grid("Scores on the test part", columns, blocks, left=("run", "state"))
