"""Which files of a folder are read, and which are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stockenh.data.findings import Finding
from stockenh.data.names import SUFFIXES, shown
from stockenh.errors import DataError

_SHOWN: Final = 4


def list_files(path: Path) -> list[Path]:
    """The files to read: the file itself, or a folder's CSV, text and Parquet files by name.

    Raises DataError where there is no such path, or where a folder has none of them.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        fix = "set data.path to a CSV or Parquet file, or to a folder of them"
        raise DataError(f"{path}: no such file or folder; {fix}")
    files = sorted(file for file in path.iterdir() if _is_table_file(file))
    if not files:
        what = "no .csv, .tsv, .txt or .parquet file in this folder"
        others = _others(path, files)
        there = f", only {_listed(others)}" if others else ""
        raise DataError(f"{path}: {what}{there}; set data.path to a folder that has some")
    return files


def left_aside(path: Path, files: Sequence[Path]) -> tuple[Finding, ...]:
    """One warning about everything else that lies in the folder; hidden files don't count."""
    others = _others(path, files) if path.is_dir() else []
    if not others:
        return ()
    message = f"{len(others)} other things in the folder were not read: {_listed(others)}"
    fix = "nothing to do if they hold no bars; else unpack them, save them as CSV, or move them up"
    return (Finding("warning", "skipped-files", "", "", "", len(others), message, fix),)


def _is_table_file(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return path.is_file() and not name.startswith(".") and name.endswith(SUFFIXES)


def _others(path: Path, files: Sequence[Path]) -> list[Path]:
    read = set(files)
    return sorted(other for other in path.iterdir() if other not in read and other.name[0] != ".")


def _listed(others: Sequence[Path]) -> str:
    names = [shown(other) + "/" * other.is_dir() for other in others[:_SHOWN]]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return ", ".join(names) + more
