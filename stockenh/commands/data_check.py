"""`stockenh data check`: every finding on a user's bars, and whether they suffice for the split."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from stockenh.config.compose import compose
from stockenh.config.schema import group_settings, plain
from stockenh.data.bars import Bars
from stockenh.data.findings import Finding
from stockenh.data.readers import list_files, sign_of_work
from stockenh.data.sources import located
from stockenh.data.sources.extra_files import unusable
from stockenh.data.sources.files import FilesData
from stockenh.data.splits import Split
from stockenh.data.windows import index_windows
from stockenh.errors import ConfigError, printable
from stockenh.report.terminal import console, styled

_MOST_BARS: Final = 5_000

EXAMPLES = 3  # of the places that a line names
_STYLES = {"error": "red", "drop": "yellow", "warning": "cyan"}


def data_check(path: Path, overrides: list[str]) -> None:
    """Prints every finding on a user's bars. Raises SystemExit(2) where nothing of them is usable, or one of
    the wanted own columns is not."""
    groups = plain(compose([f"data.path={path}", *overrides], "data_check"))
    settings, split = (group_settings(group, groups[group]) for group in ("data", "split"))
    if not isinstance(settings, FilesData):
        raise ConfigError("data check looks at bars: data=files")
    if text := sign_of_work(list_files(located(settings.path))):
        console(stderr=True).print(f"stockenh: {text}", soft_wrap=True)
    result = settings.read()
    findings = list(result.findings)
    if len(result.bars):
        findings += too_few_dates(split, result.bars, settings.lookback, settings.horizons)
    out = console()
    if findings:
        out.print(findings_table(findings))
    symbols = len(set(result.bars.symbols))
    out.print(
        f"{path}: {result.files_used} of {result.files} file{'s' * (result.files != 1)} usable, {symbols} "
        f"symbol{'s' * (symbols != 1)}, {len(result.bars):,} bars",
        soft_wrap=True,
    )  # fmt: skip
    if not len(result.bars) or unusable(findings):
        raise SystemExit(2)


def too_few_dates(split: Split, bars: Bars, lookback: int, horizons: Sequence[int]) -> tuple[Finding, ...]:
    """A warning where the split would leave a part without windows, with the number of bars it needs."""
    if _suffices(split, bars, lookback, horizons):
        return ()
    longest = int(np.diff(bars.offsets).max())
    needed = min_bars(split, lookback, horizons)
    needs = f"a symbol of {needed} bars" if needed else f"more than {_MOST_BARS} bars"
    settings = " ".join(f"split.{key}={value}" for key, value in vars(split).items())
    message = f"too few dates to train on: {settings} needs {needs}, the longest has {longest}"
    fix = "fetch a longer history, or lower data.lookback or data.horizons"
    return (Finding("warning", "too-few-dates", message, fix, rows=len(bars)),)


def min_bars(split: Split, lookback: int, horizons: Sequence[int]) -> int | None:
    """The fewest weekdays of one symbol that give every part a labelled window; None beyond 5,000."""
    monday = np.datetime64("2000-01-03")
    days = np.busday_offset(monday, np.arange(_MOST_BARS), roll="forward").astype("datetime64[s]")

    def suffices(n: int) -> bool:
        return _suffices(split, Bars.from_series([("", days[:n], np.ones((n, 5)))]), lookback, horizons)

    counts = range(lookback + min(horizons), _MOST_BARS + 1)
    index = bisect_left(counts, True, key=suffices)
    return counts[index] if index < len(counts) else None


def _suffices(split: Split, bars: Bars, lookback: int, horizons: Sequence[int]) -> bool:
    windows = index_windows(bars, np.empty((len(bars), 0), np.float32), (), horizons, lookback)
    labelled = np.flatnonzero(windows.labelled)
    try:
        split.assign(windows.asof[labelled], lambda extra: windows.reach(labelled, extra))
    except ConfigError:
        return False
    return True


def findings_table(findings: Sequence[Finding]) -> Table:
    """What was found, the gravest first; findings of one rule with one fix share a line. Fits 60 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("level")
    table.add_column("where", overflow="fold", max_width=24)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("what, and the fix", overflow="fold", ratio=1)
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for f in sorted(findings, key=lambda f: list(_STYLES).index(f.level)):
        alike.setdefault((f.level, f.rule, f.fix), []).append(f)
    for (level, rule, fix), group in alike.items():
        example = "" if len({f.message for f in group}) == 1 else f"{group[0].symbol or group[0].file}: "
        message = printable(f": {example}{group[0].message}\n")
        what = Text.assemble(styled(rule, "bold"), message, styled(fix, "dim"))
        rows = sum(f.rows for f in group)
        table.add_row(styled(level, _STYLES[level]), _where(group), str(rows or ""), what)
    return table


def _where(group: Sequence[Finding]) -> str:
    """`A.csv from 2020-01-03`, or for several `12 symbols: A, B, C, ...`."""
    first = group[0]
    if len(group) == 1:
        symbol = f" {first.symbol}" if first.symbol and first.symbol not in first.file else ""
        return f"{first.file}{symbol}" + (f"\nfrom {first.date}" if first.date else "")
    symbols, files = (list(dict.fromkeys(getattr(f, of) for f in group)) for of in ("symbol", "file"))
    names, unit = (files, "files") if "" in symbols or len(symbols) == 1 else (symbols, "symbols")
    listed = ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
    dates = [f.date for f in group if f.date]
    return f"{len(names)} {unit}: {listed}" + (f"\nfrom {min(dates)}" if dates else "")
