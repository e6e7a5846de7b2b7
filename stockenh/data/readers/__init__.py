"""Reads a folder of files, or one file, into checked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from stockenh.data.bars import Bars
from stockenh.data.findings import Finding, Rows, first_few
from stockenh.data.readers.clean import Stretch, clean_rows, join_rows
from stockenh.data.readers.parse import parse_file
from stockenh.data.readers.table import SUFFIXES, display_name
from stockenh.errors import DataError

_LATE_DAYS: Final = 10
_DAY: Final = np.timedelta64(1, "D")


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
        there = f", only {first_few(others, 4)}" if others else ""
        raise DataError(f"{path}: {what}{there}; set data.path to a folder that has some")
    return files


def _skipped_files(path: Path, files: Sequence[Path]) -> list[Finding]:
    """One warning about everything else in the folder; hidden files don't count."""
    others = _others(path, files) if path.is_dir() else []
    if not others:
        return []
    message = f"{len(others)} other files or folders were not read: {first_few(others, 4)}"
    fix = "nothing to do if they hold no bars; else unpack them, save them as CSV, or move them up"
    return [Finding("warning", "skipped-files", message, fix, rows=len(others))]


def _is_table_file(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return path.is_file() and not name.startswith(".") and name.endswith(SUFFIXES)


def _others(path: Path, files: Sequence[Path]) -> list[str]:
    others = sorted(set(path.iterdir()) - set(files))
    return [display_name(other) + "/" * other.is_dir() for other in others if other.name[0] != "."]


@dataclass(frozen=True)
class ReadSettings:
    """How to read bars.

    columns:      canonical name -> the file's own column name; wins over guessing
    adjust:       use an adjusted close, where there is one, to undo splits and dividends
    max_gap_days: a symbol's history is cut where more calendar days lie between two bars
    min_bars:     shorter stretches are left out
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    adjust: bool = True
    max_gap_days: int = 30
    min_bars: int = 131


@dataclass(frozen=True)
class ReadResult:
    """The usable bars (possibly none), the findings, and how many files gave bars."""

    bars: Bars
    findings: tuple[Finding, ...]
    files: int
    files_used: int


def read_bars(path: Path, settings: ReadSettings, today: np.datetime64 | None = None) -> ReadResult:
    """Reads and checks a folder of CSV or Parquet files, or one such file with one symbol or many.

    Bad content never raises: the findings say what was left out, where, and how to fix it. Raises DataError
    where the path does not exist or a folder has no CSV or Parquet file. today: decides which dates lie in
    the future and how years of two digits are read; the system's date by default.
    """
    today = np.datetime64("today") if today is None else today
    files = list_files(path)
    found = _skipped_files(path, files)
    parts: dict[str, list[Rows]] = {}
    for file in files:
        by_symbol, more = parse_file(file, settings.columns, settings.adjust, today)
        found += more
        for symbol, rows in by_symbol.items():
            parts.setdefault(symbol, []).append(rows)
    stretches: list[Stretch] = []
    used: set[str] = set()
    for symbol in sorted(parts):
        rows, joining = join_rows(parts.pop(symbol), symbol)
        clean, cleaning = clean_rows(rows, symbol, settings.max_gap_days, settings.min_bars)
        found += [*joining, *cleaning]
        stretches += clean
        used.update(rows.files if clean else ())
    found += _ends_early(stretches)
    found.sort(key=lambda finding: finding.file)
    return ReadResult(Bars.from_series(stretches), tuple(found), len(files), len(used))


def _ends_early(stretches: Sequence[Stretch]) -> list[Finding]:
    """One warning about the symbols that end more than ten days before the newest bar of all."""
    last = {symbol: time[-1] for symbol, time, _ in stretches}
    if not last:
        return []
    newest = max(last.values())
    early = sorted((time, symbol) for symbol, time in last.items() if newest - time > _LATE_DAYS * _DAY)
    if not early:
        return []
    listed = first_few([f"{symbol} ({str(time)[:10]})" for time, symbol in early], 5)
    how = f"more than {_LATE_DAYS} days before {str(newest)[:10]}"
    message = f"{len(early)} of {len(last)} symbols end {how}: {listed}"
    fix = "fetch them again if they still trade; if delisted there is nothing to do"
    return [Finding("warning", "ends-early", message, fix, date=str(early[0][0])[:10], rows=len(early))]
