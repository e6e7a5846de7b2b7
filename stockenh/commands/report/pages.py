"""Which page a folder has, by the files in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from stockenh.commands.report.ablation import ablation_page
from stockenh.commands.report.evaluation import evaluation_page
from stockenh.commands.report.forecast import FILE, forecast_page
from stockenh.commands.report.run import run_page
from stockenh.commands.report.several import several_page
from stockenh.commands.report.sweep import sweep_page
from stockenh.commands.track.show import FILE as TRACK
from stockenh.commands.track.show import track_page
from stockenh.errors import RunFolderError
from stockenh.report.page import PAGE, Page, write_page
from stockenh.report.terminal import print_files
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file

# In this order: a run folder holds its evaluation, too.
PAGES: Mapping[str, Callable[[Path], Page]] = {
    "sweep.json": sweep_page,
    "ablation.json": ablation_page,
    "config.yaml": lambda path: run_page(RunFolder(path)),
    "evaluation.json": evaluation_page,
    FILE: forecast_page,
    TRACK: track_page,
}


def page_of(folder: Path) -> Page:
    """The page of a folder. Raises RunFolderError where it holds nothing that has one."""
    for name, make in PAGES.items():
        if is_file(folder / name):
            return make(folder)
    raise RunFolderError(
        f"{folder} holds no result of stockenh: a run, an evaluation, a sweep, an ablation, a forecast or a "
        f"track record"
    )


def page_of_several(folders: Sequence[Path]) -> Page:
    """The runs beside each other. Raises RunFolderError where one of the folders is no run."""
    return several_page([RunFolder.open(folder) for folder in folders])


def leave_page(folder: Path, console: Console) -> None:
    """Writes the page of a folder at the end of a command, and prints where it is."""
    print_files(console, "page", [write_page(page_of(folder), folder / PAGE)])
