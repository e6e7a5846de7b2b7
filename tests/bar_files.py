"""Plain bars, and files of them, for the tests of reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockenh.data.findings import Finding
from stockenh.data.readers import ReadResult, ReadSettings, read_bars

HEADER = "Date,Open,High,Low,Close,Volume"
Row = list[str]


def dates(n: int, first: str = "2020-01-01") -> list[str]:
    """The first n weekdays from a date on."""
    days = np.arange(np.datetime64(first), np.datetime64(first) + 2 * n + 7)
    return [str(day) for day in days[np.is_busday(days)][:n]]


def numbers(n: int, seed: int = 0) -> np.ndarray:
    """(n, 5) calm, valid open, high, low, close, volume, rounded to cents and whole shares."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
    open_ = close * np.exp(rng.normal(0, 0.005, n))
    high = np.maximum(open_, close) * 1.01
    low = np.minimum(open_, close) * 0.99
    volume = rng.integers(10_000, 1_000_000, n)
    return np.column_stack([np.column_stack([open_, high, low, close]).round(2), volume])


def cells_of(
    values: np.ndarray, days: Sequence[str] = (), price: str = "{}", volume: str = "{}"
) -> list[Row]:
    """Cells date, open, high, low, close, volume of these bars, written in these formats."""
    formats = [price] * 4 + [volume] * (values.shape[1] - 4)
    return [
        [day, *(form.format(number) for form, number in zip(formats, bar, strict=True))]
        for day, bar in zip(days or dates(len(values)), values.tolist(), strict=True)
    ]


def rows(n: int = 140, seed: int = 0) -> list[Row]:
    """Cells of n valid bars."""
    return cells_of(numbers(n, seed), price="{:.2f}", volume="{:.0f}")


def write(path: Path, cells: Iterable[Sequence[str]], header: str = HEADER) -> Path:
    """Writes a CSV file."""
    path.write_text("\n".join([header, *(",".join(row) for row in cells)]) + "\n", encoding="utf-8")
    return path


def read(
    path: Path, columns: Mapping[str, str] | None = None, adjust: bool = True, max_gap_days: int = 30
) -> ReadResult:
    """Reads a path as on 1 June 2026, with 20 bars as the shortest history."""
    settings = ReadSettings(columns or {}, adjust, max_gap_days, min_bars=20)
    return read_bars(path, settings, np.datetime64("2026-06-01"))


def read_cells(
    folder: Path, cells: Iterable[Sequence[str]], header: str = HEADER, **settings: Any
) -> ReadResult:
    """Reads these cells as the file ACME.csv."""
    return read(write(folder / "ACME.csv", cells, header), **settings)


def finding(result: ReadResult, rule: str, *words: str, **fields: object) -> Finding:
    """The one finding of a rule, which has these fields and, in its message or fix, these words."""
    (found,) = [finding for finding in result.findings if finding.rule == rule]
    assert {name: getattr(found, name) for name in fields} == fields
    assert [word for word in words if word not in f"{found.message}\n{found.fix}"] == []
    return found


def rules(result: ReadResult) -> list[str]:
    """The names of all rules that fired."""
    return [finding.rule for finding in result.findings]
