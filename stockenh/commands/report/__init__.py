"""`stockenh report`: one HTML page of a run, an evaluation, a sweep, an ablation or a forecast."""

from __future__ import annotations

from pathlib import Path

from stockenh.config.overrides import split_override, split_paths, unquoted
from stockenh.errors import ConfigError, RunFolderError
from stockenh.storage.files import expanded
from stockenh.storage.untrusted import require_plain_folder

USAGE = "name a folder that stockenh wrote: stockenh report RUN, or several runs to compare: RUN RUN"


def report(arguments: list[str]) -> None:
    """Writes report.html into the folder named, or to out=FILE; of several runs into the working folder."""
    folders, out = _folders_and_file(arguments)
    if not folders:
        raise ConfigError(f"no folder given: {USAGE}")
    from stockenh.commands.report.pages import page_of, page_of_several
    from stockenh.report.page import PAGE, write_page
    from stockenh.report.terminal import console, print_files

    for folder in folders:
        if not folder.is_dir():
            raise RunFolderError(f"{folder}: no such folder; {USAGE}")
        require_plain_folder(folder)
    if len(folders) == 1:
        page, target = page_of(folders[0]), out or folders[0] / PAGE
        if out is None:
            require_plain_folder(folders[0], to_write=True)
    else:
        page, target = page_of_several(folders), out or Path(PAGE)
    print_files(console(), "page", [write_page(page, target)])


def _folders_and_file(arguments: list[str]) -> tuple[list[Path], Path | None]:
    """The folders, also as run=RUN or run=[RUN,RUN], and the file of out=FILE."""
    folders: list[Path] = []
    out = None
    for argument in arguments:
        parts = split_override(argument)
        if parts is None or Path(argument).exists():
            folders.append(expanded(argument))
        elif parts[0] == "run":
            folders += [expanded(path) for path in split_paths(str(unquoted(parts[1])))]
        elif parts[0] == "out":
            out = expanded(str(unquoted(parts[1])))
        else:
            raise ConfigError(f"{parts[0]}: no such key. Keys: run=RUN, out=FILE")
    return folders, out
