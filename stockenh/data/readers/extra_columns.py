"""The user's own columns from files: beside the bars, or in files of their own.

Legend: N rows of a file, M rows of one column over all files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data.extra import ExtraColumn, ExtraColumns, ExtraSettings
from stockenh.data.findings import Finding, Level, Mask, first_few, quoted
from stockenh.data.readers import ReadSettings, list_files
from stockenh.data.readers.columns import Index, Names, Table, equity_only, match_columns, plain
from stockenh.data.readers.date_order import one_order
from stockenh.data.readers.dates import DateOrder
from stockenh.data.readers.file_names import display_name, symbol_of, without_number, without_period
from stockenh.data.readers.numbers import Numbers
from stockenh.data.readers.parse import date_findings, dates_of, numbers_of, symbols_of
from stockenh.data.readers.table import load_table
from stockenh.errors import printable_line

FATAL: Final = "extra-"  # how the rules begin whose errors leave a wanted column out
_LARGEST: Final = 1e30  # float32, as networks have it, ends at 3e38
_SAME: Final = 1e-9  # relative difference of two files' values that is rounding
_LONGEST: Final = 200  # characters of a category
_NO_CATEGORY: Final = ("", "-", "--", "null", "none", "nan", "n/a", "#n/a", "<na>")
_KEYS: Final = ("symbol", "date", "time")
_BAR: Final = (*_KEYS, "open", "high", "low", "close", "volume", "adj_close")


@dataclass(frozen=True)
class _File:
    """What one file holds of the own columns.

    frame: `symbol time row`, and a column for each own one that the file has, under its name in `_key`; None
    where it has none. time: seconds from 1970, null where the file has no dates.
    """

    name: str
    names: Names = ()
    order: DateOrder | None = None
    frame: pl.DataFrame | None = None
    findings: tuple[Finding, ...] = ()


def read_extra(
    path: Path,
    wanted: ExtraSettings,
    settings: ReadSettings,
    today: np.datetime64 | None = None,
) -> tuple[ExtraColumns, tuple[Finding, ...]]:
    """Reads the wanted columns from a folder or a file, and findings.

    Bad content never raises. An error whose rule begins with `extra-` says that a column can't be used as it
    is; other errors leave out a file. Raises DataError where there is no file.
    """
    today = np.datetime64("today") if today is None else today
    paths = list_files(path, "data.extra.path" if wanted.path is not None else "data.path")
    files = _in_one_order(paths, wanted, settings, today)
    found = [finding for file in files for finding in file.findings]
    whose = {file.name: file.frame for file in files if file.frame is not None}
    frames = _with_joined_names(whose)
    absent = [name for name in wanted.names if not any(_key(wanted, name) in f for f in frames.values())]
    if absent and not any(finding.rule.startswith(FATAL) for finding in found):
        found.append(_absent(path, absent, files, wanted))
    past = {name: _rows(frames, _key(wanted, name)) for name in wanted.past}
    static = {name: _categories(frames, _key(wanted, name)) for name in wanted.static}
    known = [part["symbol"] for part in (*past.values(), *static.values())]
    symbols = pl.concat([pl.Series([], dtype=pl.String), *known]).unique().sort()
    columns = []
    for name, rows in past.items():
        found += _disagreements(name, rows, list(frames))
        columns.append(_column(rows, symbols))
    codes = []
    for name, rows in static.items():
        found += _refused_categories(name, rows, list(frames))
        of = dict(rows.select("symbol", "value").iter_rows())
        codes.append(tuple(of.get(symbol, "") for symbol in symbols))
    return ExtraColumns(wanted, tuple(symbols.to_list()), tuple(columns), tuple(codes)), tuple(found)


def _key(wanted: ExtraSettings, name: str) -> str:
    """The column's name in a frame, which no other column has."""
    return f"past {name}" if name in wanted.past else f"static {name}"


def _in_one_order(
    paths: Sequence[Path], wanted: ExtraSettings, settings: ReadSettings, today: np.datetime64
) -> list[_File]:
    """Every file, those with dates like 1/4/1999 in an order that the whole folder decides."""
    files = [_read(path, wanted, settings, today) for path in paths]
    if settings.dayfirst is None and len(files) > 1:
        for at, verdict in one_order([(file.names, file.order) for file in files]).items():
            if isinstance(verdict, str):
                fix = "set data.dayfirst=true or data.dayfirst=false, or write 2024-01-31"
                name = files[at].name
                files[at] = _File(name, findings=(Finding("error", "date-order", verdict, fix, name),))
            else:
                files[at] = _read(paths[at], wanted, replace(settings, dayfirst=verdict), today)
    return files


def _read(path: Path, wanted: ExtraSettings, settings: ReadSettings, today: np.datetime64) -> _File:
    file, beside = display_name(path), wanted.path is None
    table, found = load_table(path, settings.columns)
    if table is None:
        return _File(file, findings=() if beside else found)  # the rules of bars say it
    known = {plain(name) for name in table.names}
    mapping = {part: name for part, name in settings.columns.items() if plain(name) in known}
    index = match_columns(table.names, mapping).index
    parts = {name: at for name, at in index.items() if name in (_BAR if beside else _KEYS)}
    place = _places(table.names, wanted.names)
    if taken := [(name, part) for name, at in place.items() for part, of in parts.items() if at == of]:
        name, part = taken[0]
        message = f"the column {name!r} is read as the {part} of the bars"
        fix = f"rename it, or name the bars' own: data.columns.{part}=NAME"
        return _File(file, table.names, findings=(Finding("error", "extra-is-bar", message, fix, file),))
    if not place:
        return _File(file, table.names)
    past = [name for name in wanted.past if name in place]
    if past and "date" not in index:
        message = f"no column of dates beside {past[0]!r}; the file has {first_few(table.names, 8)}"
        fix = "add one called date, or name it: data.columns.date=NAME"
        return _File(file, table.names, findings=(Finding("error", "extra-undated", message, fix, file),))
    filtered, _ = equity_only(file, table, index) if past else (table, ())
    return _parsed(filtered, place, index, path, wanted, settings, today)


def _places(names: Names, wanted: Sequence[str]) -> dict[str, int]:
    """Where each wanted column is, by its name as written, else without case and punctuation."""
    plains = [plain(name) for name in names]
    return {
        name: names.index(name) if name in names else plains.index(plain(name))
        for name in wanted
        if name in names or plain(name) in plains
    }


def _parsed(
    table: Table,
    place: Mapping[str, int],
    index: Index,
    path: Path,
    wanted: ExtraSettings,
    settings: ReadSettings,
    today: np.datetime64,
) -> _File:
    file = display_name(path)
    symbols = symbols_of(table, index, symbol_of(path))
    time = np.full(len(symbols), "NaT", "datetime64[s]")
    order, found = None, list[Finding]()
    if "date" in index:
        dates = dates_of(table, index, today, settings.dayfirst)
        time, order = dates.time, dates.order
        if wanted.path is not None:
            found += date_findings(dates, file)
            found += _undated(file, symbols, time)
    if "symbol" not in index and len(symbols):
        known = time[~np.isnat(time)]
        symbols = symbols.replace(symbols[0], without_period(symbols[0], known))
    columns: dict[str, pl.Series] = {}
    past = {name: table.column(place[name]) for name in wanted.past if name in place}
    if past:
        numbers, sign = numbers_of(past, table.separator)
        if sign.clash:
            fix = "write all numbers with a decimal point"
            found.append(
                Finding("error", "extra-decimal-sign", f"two decimal signs: {sign.clash}", fix, file)
            )
        for name, cells in past.items():
            values, more = _finite(file, name, cells, numbers[name], symbols, time)
            found += more
            columns[_key(wanted, name)] = pl.Series(values).fill_nan(None)
    for name in wanted.static:
        if name in place:
            columns[_key(wanted, name)] = _texts(table.column(place[name]))
    seconds = pl.Series(time.astype(np.int64)).set(pl.Series(np.isnat(time)), None)
    row = pl.int_range(len(symbols), eager=True)
    frame = pl.DataFrame({"symbol": symbols, "time": seconds, "row": row, **columns})
    return _File(file, table.names, order, frame.filter(pl.col("symbol").is_not_null()), tuple(found))


def _undated(file: str, symbols: pl.Series, time: NDArray[np.datetime64]) -> Iterator[Finding]:
    wrong = np.isnat(time)
    if wrong.any():
        message, fix = "the date can't be read", "write it as 2024-01-31, or name it: data.columns.date=NAME"
        yield Finding("drop", "date-unreadable", message, fix, *_place(file, wrong, symbols, time))


def _finite(
    file: str,
    name: str,
    cells: pl.Series,
    numbers: Numbers,
    symbols: pl.Series,
    time: NDArray[np.datetime64],
) -> tuple[NDArray[np.float64], list[Finding]]:
    """The column's numbers (N,), NaN where a cell is empty or unusable, and findings about the latter."""
    value = numbers.value.copy()
    with np.errstate(invalid="ignore"):
        infinite = np.abs(value) > _LARGEST
    value[infinite] = np.nan
    found = []
    cases: tuple[tuple[Level, str, Mask, str, str], ...] = (
        ("drop", "extra-text", numbers.unreadable, "a number", "correct it, or leave the cell empty"),
        ("drop", "extra-infinite", infinite, "finite", "write a number, or leave the cell empty"),
    )
    for level, rule, mask, what, fix in cases:
        if not mask.any():
            continue
        row, where = int(mask.argmax()), _place(file, mask, symbols, time)
        cell = quoted(str(cells[row]), 40)
        if mask is numbers.unreadable and not np.isfinite(value).any():
            message = f"{name!r} holds no numbers but text such as {cell}"
            fix = f"if it is a category of the symbol: data.extra.static=[{name}]; else write numbers"
            found.append(Finding("error", "extra-not-numbers", message, fix, *where))
            continue
        message = f"{name!r}: {cell} in row {row + 1} below the names is not {what}; it counts as missing"
        found.append(Finding(level, rule, message, fix, *where))
    return value, found


def _place(
    file: str, mask: Mask, symbols: pl.Series, time: NDArray[np.datetime64]
) -> tuple[str, str, str, int]:
    """File, symbol and date of the first masked row, and the number of all, as a finding has them."""
    first = int(mask.argmax())
    date = "" if np.isnat(time[first]) else str(time[first])[:10]
    return file, symbols[first] or "", date, int(mask.sum())


def _texts(column: pl.Series) -> pl.Series:
    """Categories as text, null where a cell is empty; whole numbers without a decimal point."""
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        column = whole if (whole == column).all() else column
    text = column.cast(pl.String).str.strip_chars()
    text = text.set(text.str.to_lowercase().is_in(_NO_CATEGORY).fill_null(True), None)
    names = text.unique().drop_nulls()
    return text.replace({name: clean for name in names if (clean := printable_line(name)) != name})


def _with_joined_names(frames: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Rows of AAPL (1) as those of AAPL where their dates don't overlap, as bars of several downloads are."""
    numbered = {
        symbol
        for frame in frames.values()
        for symbol in frame["symbol"].unique()
        if without_number(symbol) != symbol
    }
    if not numbered:
        return dict(frames)
    times = pl.concat([frame.select("symbol", "time") for frame in frames.values()]).drop_nulls()
    ranges = times.group_by("symbol").agg(low=pl.col("time").min(), high=pl.col("time").max())
    span = {symbol: (low, high) for symbol, low, high in ranges.iter_rows()}
    renamed = {}
    for symbol in sorted(numbered & span.keys()):
        first, (low, high) = without_number(symbol), span[symbol]
        if first in span and (high < span[first][0] or span[first][1] < low):
            renamed[symbol] = first
            span[first] = min(low, span[first][0]), max(high, span[first][1])
    return {name: frame.with_columns(pl.col("symbol").replace(renamed)) for name, frame in frames.items()}


def _absent(path: Path, absent: Sequence[str], files: Sequence[_File], wanted: ExtraSettings) -> Finding:
    which = "past" if absent[0] in wanted.past else "static"
    names = list(dict.fromkeys(name for file in files for name in file.names if name))
    where = f"no file of {display_name(path)} has" if len(files) > 1 else "the file has"
    has = "" if len(files) > 1 else "no "
    message = f"{where} {has}column {' or '.join(map(repr, absent))}; there are {first_few(names, 12)}"
    fix = f"add it, or correct data.extra.{which}; files of their own are named with data.extra.path"
    return Finding("error", "extra-absent", message, fix, "" if len(files) > 1 else files[0].name)


def _of_all(frames: Mapping[str, pl.DataFrame], key: str) -> Iterator[pl.DataFrame]:
    for number, frame in enumerate(frames.values()):
        if key in frame:
            yield frame.select("symbol", "time", "row", pl.col(key).alias("value"), file=pl.lit(number))


def _rows(frames: Mapping[str, pl.DataFrame], key: str) -> pl.DataFrame:
    """(M) `symbol time row value file` of a past column, by symbol and time; of equal ones the known last."""
    schema = {"symbol": pl.String, "time": pl.Int64, "row": pl.Int64, "value": pl.Float64, "file": pl.Int32}
    parts = [pl.DataFrame(schema=schema), *(part.cast(schema) for part in _of_all(frames, key))]  # type: ignore[arg-type]
    rows = pl.concat(parts).filter(pl.col("time").is_not_null())
    return rows.sort("symbol", "time", pl.col("value").is_not_null(), "file", "row")


def _disagreements(name: str, rows: pl.DataFrame, files: Sequence[str]) -> Iterator[Finding]:
    """What rows of one symbol and time contradict each other: an error between files, else a warning."""
    if not rows.select("symbol", "time").is_duplicated().any():
        return
    value, file = pl.col("value"), pl.col("file")
    same = rows.group_by("symbol", "time", maintain_order=True).agg(
        low=value.min(), high=value.max(), files=file.n_unique(),
        one=file.sort_by(value).drop_nulls().first(), other=file.sort_by(value).drop_nulls().last(),
    )  # fmt: skip
    size = pl.max_horizontal(pl.col("low").abs(), pl.col("high").abs())
    differ = same.filter(pl.col("high") - pl.col("low") > _SAME * size)
    for across in (True, False):
        here = differ.filter((pl.col("one") != pl.col("other")) if across else (pl.col("files") == 1))
        if not len(here):
            continue
        symbol, time, low, high, _, one, other = here.row(0)
        date = str(np.datetime64(time, "s"))[:10]
        if across:
            message = f"{name!r} of {symbol} is {low:g} in {files[one]} and {high:g} in {files[other]}"
            fix = "remove the wrong one of the two files, or its rows"
            yield Finding("error", "extra-disagree", message, fix, files[one], symbol, date, len(here))
        else:
            message = f"{name!r} has two values at one time, {low:g} and {high:g}; the last row was kept"
            fix = "keep one row for each symbol and date"
            yield Finding("drop", "extra-duplicate", message, fix, files[one], symbol, date, len(here))


def _column(rows: pl.DataFrame, symbols: pl.Series) -> ExtraColumn:
    kept = rows.unique(["symbol", "time"], keep="last", maintain_order=True)
    counts = dict(kept.group_by("symbol").len().iter_rows())
    sizes = [counts.get(symbol, 0) for symbol in symbols]
    return ExtraColumn(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        kept["time"].to_numpy().astype("datetime64[s]"),
        kept["value"].fill_null(np.nan).to_numpy(),
    )


def _categories(frames: Mapping[str, pl.DataFrame], key: str) -> pl.DataFrame:
    """`symbol value file`: the distinct categories of each symbol, in the order of the files and rows."""
    schema = {"symbol": pl.String, "value": pl.String, "file": pl.Int32}
    parts = [part.select(schema.keys()).cast(schema) for part in _of_all(frames, key)]  # type: ignore[arg-type]
    rows = pl.concat([pl.DataFrame(schema=schema), *parts]).filter(pl.col("value").is_not_null())
    return rows.unique(["symbol", "value"], keep="first", maintain_order=True)


def _refused_categories(name: str, rows: pl.DataFrame, files: Sequence[str]) -> Iterator[Finding]:
    several = rows.filter(pl.col("symbol").is_duplicated())
    if len(several):
        symbol = several["symbol"][0]
        own = several.filter(pl.col("symbol") == symbol)
        (one, first), (other, second) = own.select("value", "file").rows()[:2]
        where = "" if first == second else f" ({files[first]}, {files[second]})"
        message = (
            f"{name!r} has {len(own):,} categories for the symbol {symbol}: {quoted(one, 30)} and "
            f"{quoted(other, 30)}{where}"
        )
        fix = "write one for each symbol; what changes with time is a number in data.extra.past"
        yield Finding("error", "extra-categories", message, fix, files[first], symbol, rows=len(several))
    elif len(long := rows.filter(pl.col("value").str.len_chars() > _LONGEST)):
        message = f"{name!r} holds texts of more than {_LONGEST} characters: no categories"
        fix = "write short names"
        place, symbol = files[long["file"][0]], long["symbol"][0]
        yield Finding("error", "extra-categories", message, fix, place, symbol, rows=len(long))
