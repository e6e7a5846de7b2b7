"""The page of a search, from report/sweep.json and the journal of its study."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from stockenh.commands.report.reading import damaged
from stockenh.commands.sweep.figures import draw
from stockenh.commands.sweep.journal import MOST_BYTES, open_journal
from stockenh.commands.train.result import result_grid
from stockenh.errors import RunFolderError
from stockenh.report.page import Block, Code, Page, Picture, Tab, Table, Words
from stockenh.report.table import Grid, number, of_target
from stockenh.storage.untrusted import is_file, read_bytes, read_json

JOURNAL = "journal.log"
WIDTH = 1000  # characters: a page has room for every column
ALT = {
    "history": "the metric of every trial",
    "intermediate": "the metric of every trial by epoch",
    "parallel": "the values of the trials",
    "importance": "the importance of the parameters",
}


def sweep_page(folder: Path, study: optuna.Study | None = None) -> Page:
    """Best trial, test figure, overfitting, pictures, trials and space.

    study: None: that of the folder's journal, read from a copy. Raises RunFolderError where the search has
    no best trial yet.
    """
    path = folder / "report" / "sweep.json"
    if not is_file(path):
        raise RunFolderError(f"{folder}: the search has no complete trial yet, so there is nothing to report")
    found: dict[str, Any] = read_json(path, dict[str, Any])
    with damaged(folder):
        best, target, trials = found["best"], of_target(found["target"]), found["trials"]
        lines = [
            f"Trial {best['trial']} is the best: {found['metric']} {number(best['value'], 6)} on validation "
            f"with {best['values']}.",
            f"It is the best of {len(trials)}, so its validation figure flatters it: {found['overfitting']}.",
        ]
        blocks: list[Block] = [Words(lines), Code("\n".join(found["commands"]), "Train it")]
        if found["test"] is not None:
            looks = "once" if found["looks"] == 1 else f"{found['looks']} times"
            title = f"The best trial on the test part, which was looked at {looks}"
            blocks.append(Table(result_grid({"test": found["test"]}, title, WIDTH, found["target"])))
        columns = ("trial", "state", "epochs", str(found["metric"]), "s", "values")
        grid = Grid("Trials, the best first", columns, [trials], left=("state", "values"))
        space = Grid("Space", ("parameter", "values"), [found["space"]], left=("parameter", "values"))
        tabs = [
            Tab("Overview", [*blocks, *_pictures(folder, study, str(found["metric"]))]),
            Tab("Trials", [Table(grid)]),
            Tab("Space", [Table(space)]),
        ]
        return Page(f"Sweep {folder.absolute().name}{target}", [("trials", str(found["title"]))], tabs)


def _pictures(folder: Path, study: optuna.Study | None, metric: str) -> list[Block]:
    with tempfile.TemporaryDirectory() as made:
        if study is None and is_file(folder / JOURNAL):
            # a copy, because opening a study may write to it
            copy = Path(made) / JOURNAL
            copy.write_bytes(read_bytes(folder / JOURNAL, MOST_BYTES))
            storage = open_journal(copy)
            names = optuna.get_all_study_names(storage)
            study = optuna.load_study(study_name=names[0], storage=storage) if names else None
        if study is None:
            return [Words(["No pictures: the study is in a database. stockenh sweep resume=DIR draws them."])]
        drawn = {path.stem: path.read_text() for path in draw(study, metric, Path(made), ".svg")}
    return [Picture(name, ALT.get(name, name), partial(_copy, text)) for name, text in drawn.items()]


def _copy(text: str, path: Path) -> None:
    path.write_text(text)
