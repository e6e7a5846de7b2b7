"""Reads a folder of files, or one file, into checked bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from stockenh.data.bars import Bars
from stockenh.data.findings import Finding, Rows, first_few
from stockenh.data.readers.clean import Stretch, clean_rows, join_rows
from stockenh.data.readers.date_order import one_order
from stockenh.data.readers.file_names import SUFFIXES, display_name, without_number
from stockenh.data.readers.parse import Parsed, ReadSettings, parse_file
from stockenh.data.readers.twins import same_bars
from stockenh.data.threads import in_threads
from stockenh.errors import DataError, printable_line

__all__ = ["ReadResult", "ReadSettings", "list_files", "read_bars"]

_LATE_DAYS: Final = 10
_DAY: Final = np.timedelta64(1, "D")


def list_files(path: Path, key: str = "data.path") -> list[Path]:
    """The files to read: the file itself, or a folder's CSV, text and Parquet files by name.

    key: what names the path. Raises DataError where there is no such path, or none of them in the folder.
    """
    if path.is_file():
        return [path]
    name = printable_line(str(path))
    if not path.is_dir():
        fix = f"set {key} to a CSV or Parquet file, or to a folder of them"
        what = "not a regular file" if path.exists() else "no such file or folder"
        raise DataError(f"{name}: {what}; {fix}")
    files = sorted(file for file in path.iterdir() if _is_table_file(file))
    if not files:
        what = "no .csv, .tsv, .txt or .parquet file in this folder"
        others = _others(path, files)
        there = f", only {first_few(others, 4)}" if others else ""
        raise DataError(f"{name}: {what}{there}; set {key} to a folder that has some")
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
    return [display_name(other) + _kind(other) for other in others if other.name[0] != "."]


def _kind(path: Path) -> str:
    return "/" if path.is_dir() else "" if path.is_file() else " (not a regular file)"


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
    for parsed in _parse(files, settings, today):
        found += parsed.findings
        for symbol, rows in parsed.rows.items():
            parts.setdefault(symbol, []).append(rows)
    _join_downloads(parts)
    stretches: list[Stretch] = []
    used: set[str] = set()

    def cleaned(symbol: str) -> tuple[list[Stretch], list[Finding], tuple[str, ...]]:
        rows, joining = join_rows(parts.pop(symbol), symbol)
        clean, cleaning = clean_rows(rows, symbol, settings.max_gap_days, settings.min_bars)
        return clean, [*joining, *cleaning], rows.files

    for clean, findings, names in in_threads(cleaned, sorted(parts)):
        found += findings
        stretches += clean
        used.update(names if clean else ())
    found += [*_ends_early(stretches), *same_bars(stretches)]
    found.sort(key=lambda finding: finding.file)
    return ReadResult(Bars.from_series(stretches), tuple(found), len(files), len(used))


def _join_downloads(parts: dict[str, list[Rows]]) -> None:
    """Adds AAPL (1) to AAPL where their dates don't overlap: downloads of several years under one name."""
    for symbol in sorted(parts):
        first = without_number(symbol)
        if first == symbol or first not in parts:
            continue
        (begin, end), (later, last) = (_range(parts[name]) for name in (first, symbol))
        if last < begin or end < later:
            parts[first] += parts.pop(symbol)


def _range(rows: Sequence[Rows]) -> tuple[np.datetime64, np.datetime64]:
    return min(part.time.min() for part in rows), max(part.time.max() for part in rows)


def _parse(files: Sequence[Path], settings: ReadSettings, today: np.datetime64) -> list[Parsed]:
    """Every file, those with dates like 1/4/1999 in an order that the whole folder decides."""
    parsed = [*in_threads(lambda file: parse_file(file, settings, today), files)]
    if settings.dayfirst is None and len(files) > 1:
        for at, verdict in one_order([(one.names, one.order) for one in parsed]).items():
            if isinstance(verdict, str):
                message, fix = verdict, "set data.dayfirst=true or data.dayfirst=false, or write 2024-01-31"
                error = Finding("error", "date-order", message, fix, display_name(files[at]))
                parsed[at] = Parsed({}, (error,))
            else:
                parsed[at] = parse_file(files[at], replace(settings, dayfirst=verdict), today)
    return parsed


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
