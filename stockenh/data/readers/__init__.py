"""Reads a folder of files, or one file, into checked bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from stockenh.data.bars import Bars
from stockenh.data.findings import Finding, Rows, first_few
from stockenh.data.processes import grouped, in_processes
from stockenh.data.readers.clean import Stretch, clean_rows, join_rows
from stockenh.data.readers.date_order import one_order
from stockenh.data.readers.file_names import SUFFIXES, display_name, without_number
from stockenh.data.readers.parse import Parsed, ReadSettings, parse_file
from stockenh.data.readers.twins import same_bars
from stockenh.errors import DataError, counted, printable_line
from stockenh.storage.files import nothing_there

__all__ = ["ReadResult", "ReadSettings", "list_files", "read_bars", "sign_of_work"]

_LATE_DAYS: Final = 10
_LONG: Final = 2**28  # bytes of files that take more than a few seconds
_LARGE: Final = 2**26  # bytes of files that are read on all cores: about a second of work
_GROUP: Final = 2**23  # bytes of files that a process is asked for at a time
_MANY: Final = 4_000_000  # rows of bars that are checked on all cores
_GROUP_ROWS: Final = 200_000  # rows that a process is asked for at a time
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
        what = "not a regular file" if path.exists() else printable_line(nothing_there(path))
        raise DataError(f"{name}: {what}; {fix}")
    files = sorted(file for file in path.iterdir() if _is_table_file(file))
    if not files:
        what = "no .csv, .tsv, .txt or .parquet file in this folder"
        others = _others(path, files)
        there = f", only {first_few(others, 4)}" if others else ""
        raise DataError(f"{name}: {what}{there}; set {key} to a folder that has some")
    return files


def sign_of_work(files: Sequence[Path]) -> str | None:
    """What to say before files are read that take more than a few seconds, else None."""
    size = sum(_size(file) for file in files)
    if size < _LONG:
        return None
    return f"reading {counted(len(files), 'file')}, {size / 1e9:.1f} GB: on one core a minute per GB"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


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
    for clean, findings, names in _clean_all(parts, settings):
        found += findings
        stretches += clean
        used.update(names if clean else ())
    found += [*_ends_early(stretches), *same_bars(stretches)]
    found.sort(key=lambda finding: finding.file)
    return ReadResult(Bars.from_series(stretches), tuple(found), len(files), len(used))


_Cleaned = tuple[list[Stretch], list[Finding], tuple[str, ...]]


def _clean_all(parts: dict[str, list[Rows]], settings: ReadSettings) -> Iterator[_Cleaned]:
    """The stretches of each symbol, findings, and its files; on all cores where there are many rows.

    Empties `parts`: the rows of all symbols and their stretches need not fit into memory together.
    """
    symbols = sorted(parts)
    counts = [sum(len(rows.time) for rows in parts[symbol]) for symbol in symbols]
    if sum(counts) < _MANY:
        for symbol in symbols:
            yield _clean(symbol, parts.pop(symbol), settings)
        return
    groups = (
        [(symbol, parts.pop(symbol)) for symbol in symbols[group]] for group in grouped(counts, _GROUP_ROWS)
    )
    for group in in_processes(partial(_clean_group, settings=settings), groups):
        yield from group


def _clean_group(group: Sequence[tuple[str, list[Rows]]], settings: ReadSettings) -> list[_Cleaned]:
    return [_clean(symbol, parts, settings) for symbol, parts in group]


def _clean(symbol: str, parts: list[Rows], settings: ReadSettings) -> _Cleaned:
    rows, joining = join_rows(parts, symbol)
    clean, cleaning = clean_rows(rows, symbol, settings.max_gap_days, settings.min_bars)
    return clean, [*joining, *cleaning], rows.files


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
    parsed = _parse_all(files, [settings] * len(files), today)
    if settings.dayfirst is None and len(files) > 1:
        verdicts = one_order([(one.names, one.order) for one in parsed])
        again = {at: verdict for at, verdict in verdicts.items() if not isinstance(verdict, str)}
        ordered = [replace(settings, dayfirst=verdict) for verdict in again.values()]
        for at, one in zip(again, _parse_all([files[at] for at in again], ordered, today), strict=True):
            parsed[at] = one
        for at in verdicts.keys() - again.keys():
            message, fix = verdicts[at], "set data.dayfirst=true or data.dayfirst=false, or write 2024-01-31"
            error = Finding("error", "date-order", str(message), fix, display_name(files[at]))
            parsed[at] = Parsed({}, (error,))
    return parsed


def _parse_all(files: Sequence[Path], settings: Sequence[ReadSettings], today: np.datetime64) -> list[Parsed]:
    """`parse_file` of each file by its settings, on all cores where they are large."""
    each = [*zip(files, settings, strict=True)]
    sizes = [_size(file) for file in files]
    work = partial(_parse_group, today=today)
    if sum(sizes) < _LARGE:
        return work(each)
    groups = [each[group] for group in grouped(sizes, _GROUP)]
    return [parsed for group in in_processes(work, groups) for parsed in group]


def _parse_group(files: Sequence[tuple[Path, ReadSettings]], today: np.datetime64) -> list[Parsed]:
    return [parse_file(file, settings, today) for file, settings in files]


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
