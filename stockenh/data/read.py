"""From a folder or file of exported bars to checked, adjusted series."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from stockenh.data.bars import Bars
from stockenh.data.clean import Stretch, clean_rows
from stockenh.data.columns import CANONICAL
from stockenh.data.findings import Finding
from stockenh.data.parse import Part, parse_file
from stockenh.data.rules import Rows
from stockenh.data.table import is_table_file
from stockenh.errors import ConfigError, DataError

_LATE_DAYS: Final = 10
_DAY: Final = np.timedelta64(1, "D")


@dataclass(frozen=True)
class ReadSettings:
    """How to read bars.

    columns:      canonical name -> the file's own column name; wins over guessing
    adjust:       use an adjusted close, where there is one, to undo splits and dividends
    max_gap_days: a symbol's history is cut where more calendar days lie between two bars
    min_bars:     shorter stretches are left out

    Raises ConfigError on an unknown canonical name or a limit below 1.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    adjust: bool = True
    max_gap_days: int = 30
    min_bars: int = 131

    def __post_init__(self) -> None:
        unknown = [name for name in self.columns if name not in CANONICAL]
        if unknown:
            known = ", ".join(CANONICAL)
            raise ConfigError(f"data.columns.{unknown[0]}: no such part of a bar; known: {known}")
        for name in ("max_gap_days", "min_bars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class ReadResult:
    """The usable bars (none where nothing was usable), what was found, and how many files gave bars."""

    bars: Bars
    findings: tuple[Finding, ...]
    files: int
    files_used: int


def read_bars(path: Path, settings: ReadSettings) -> ReadResult:
    """Reads and checks a folder of CSV or Parquet files, or one such file with one symbol or many.

    Bad content never raises: the findings say what was left out, where, and how to mend it. Raises DataError
    where the path does not exist or a folder has no CSV or Parquet file.
    """
    files = list_files(path)
    found: list[Finding] = []
    parts: dict[str, list[Part]] = {}
    for file in files:
        of_file, more = parse_file(file, settings.columns, settings.adjust)
        found += more
        for part in of_file:
            parts.setdefault(part.symbol, []).append(part)
    stretches: list[Stretch] = []
    used: set[str] = set()
    for symbol in sorted(parts):
        kept, doubled = _join(parts.pop(symbol))
        kept, unadjusted = _alike(kept)
        doubled += unadjusted
        clean, of_rows = clean_rows(
            _concatenate(kept), kept[0].file, symbol, settings.max_gap_days, settings.min_bars
        )
        found += [*doubled, *of_rows]
        stretches += clean
        used.update(part.file for part in kept if clean)
    found += _ends_early(stretches)
    found.sort(key=lambda finding: finding.file)
    return ReadResult(Bars.from_series(stretches), tuple(found), len(files), len(used))


def list_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        fix = "set data.path to a CSV or Parquet file, or to a folder of them"
        raise DataError(f"{path}: no such file or folder; {fix}")
    files = sorted(file for file in path.iterdir() if is_table_file(file))
    if not files:
        fix = "set data.path to a folder that has some"
        raise DataError(f"{path}: no .csv, .txt or .parquet file in this folder; {fix}")
    return files


def _join(parts: Sequence[Part]) -> tuple[list[Part], list[Finding]]:
    """The parts of one symbol whose dates don't overlap, in time order; a part that overlaps is an error."""
    kept: list[Part] = []
    spans: list[tuple[np.datetime64, np.datetime64]] = []
    found = []
    for part in parts:
        begin, end = part.rows.time.min(), part.rows.time.max()
        at = bisect(spans, (begin, end))
        near = [i for i in (at - 1, at) if 0 <= i < len(spans)]
        clash = [i for i in near if spans[i][0] <= end and begin <= spans[i][1]]
        if not clash:
            kept.insert(at, part)
            spans.insert(at, (begin, end))
            continue
        message = f"{kept[clash[0]].file} has the symbol {part.symbol} too, for the same dates"
        fix = "remove one of the two files, or name their symbols differently"
        date, count = str(begin)[:10], len(part.rows)
        found.append(Finding("error", "duplicate-symbol", part.file, part.symbol, date, count, message, fix))
    return kept, found


def _alike(parts: Sequence[Part]) -> tuple[list[Part], list[Finding]]:
    """The parts with an adjusted close where any has one: the others' prices are on another scale."""
    adjusted = [part for part in parts if part.rows.adj_close is not None]
    if not adjusted or len(adjusted) == len(parts):
        return list(parts), []
    message = f"no adjusted close, which {adjusted[0].file} has for the same symbol"
    fix = "fetch this file with its adjusted close, or set data.adjust=false"
    others = [part for part in parts if part.rows.adj_close is None]
    found = [
        Finding("error", "adj-close-absent", p.file, p.symbol, "", len(p.rows), message, fix) for p in others
    ]
    return adjusted, found


def _concatenate(parts: Sequence[Part]) -> Rows:
    if len(parts) == 1:
        return parts[0].rows
    adj_close = [part.rows.adj_close for part in parts if part.rows.adj_close is not None]
    return Rows(
        np.concatenate([part.rows.time for part in parts]),
        np.concatenate([part.rows.ohlcv for part in parts]),
        np.concatenate(adj_close) if len(adj_close) == len(parts) else None,
    )


def _ends_early(stretches: Sequence[Stretch]) -> list[Finding]:
    """One warning about the symbols that end more than ten days before the newest bar of all."""
    last = {symbol: time[-1] for symbol, time, _ in stretches}
    if not last:
        return []
    newest = max(last.values())
    early = sorted((time, symbol) for symbol, time in last.items() if newest - time > _LATE_DAYS * _DAY)
    if not early:
        return []
    listed = ", ".join(f"{symbol} ({str(time)[:10]})" for time, symbol in early[:5])
    more = f" and {len(early) - 5} more" if len(early) > 5 else ""
    how = f"more than {_LATE_DAYS} days before {str(newest)[:10]}"
    message = f"{len(early)} of {len(last)} symbols end {how}: {listed}{more}"
    fix = "fetch them again if they still trade; if delisted there is nothing to do"
    return [Finding("warning", "ends-early", "", "", str(early[0][0])[:10], len(early), message, fix)]
