"""Dates as public exports write them, read as wall-clock time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_CLOCK: Final = (
    r"(?:(?:T|,? +)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]\d+)?)?"
    r"(?: ?(?P<half>[AaPp][Mm]))?)?"
    r"(?: ?(?P<zone>Z|UTC|GMT|[A-Z]{2,4}T|[+-]\d{2}(?::?\d{2}){0,2}))?$"
)
_YEAR_FIRST: Final = r"^(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})" + _CLOCK
_DIGITS: Final = r"^(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})" + _CLOCK
_DAY_NAME: Final = (
    r"^(?P<day>\d{1,2})[-/. ]?(?P<name>[A-Za-z]{3,9})[-/., ]{0,2}(?P<year>\d{4}|\d{2})" + _CLOCK
)
_NAME_DAY: Final = r"^(?P<name>[A-Za-z]{3,9})[-. ]{1,2}(?P<day>\d{1,2}),?[- ](?P<year>\d{4})" + _CLOCK
_NUMERIC: Final = r"^(?P<left>\d{1,2})[-/.](?P<right>\d{1,2})[-/.](?P<year>\d{4}|\d{2})" + _CLOCK
_EPOCH: Final = r"^-?\d{9,19}$"
_EPOCH_LIMIT: Final = 7_258_118_400  # seconds to the year 2200
_MONTHS: Final = {
    **{"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6},
    **{"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12},
}

Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Dates:
    """A parsed column of n dates.

    time:      (n,) datetime64[s] as written, without its zone; NaT where unreadable
    ambiguous: day and month could not be told apart, and month first was assumed
    zone:      the first zone that was dropped ("epoch" for seconds since 1970, read as UTC), or ""
    """

    time: Times
    ambiguous: bool = False
    zone: str = ""


def parse_dates(column: pl.Series, today: np.datetime64) -> Dates:
    """Reads a column of text, numbers, dates or timestamps, n values.

    A year of two digits is the latest one that has begun by the end of tomorrow.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        wall = column.dt.replace_time_zone(None)
        time = wall.cast(pl.Datetime("us")).to_numpy().astype("datetime64[s]")
        return Dates(time, zone=dtype.time_zone or "")
    if dtype == pl.Date:
        return Dates(column.to_numpy().astype("datetime64[s]"))
    if dtype.is_float():
        column = column.cast(pl.Int64, strict=False)
    text = column.cast(pl.String)
    quick = text.str.to_date("%Y-%m-%d", strict=False)
    if len(text) and not quick.null_count():
        return Dates(quick.to_numpy().astype("datetime64[s]"))
    return _parse_text(text.str.strip_chars(), last_day(today))


def last_day(today: np.datetime64) -> np.datetime64:
    """The last possible day of a bar: tomorrow, which has begun in other time zones."""
    day: np.datetime64 = today.astype("datetime64[D]") + np.timedelta64(1, "D")
    return day


def _parse_text(text: pl.Series, last: np.datetime64) -> Dates:
    time = np.full(len(text), np.datetime64("NaT"), "datetime64[s]")
    zone, ambiguous = "", False
    for pattern in (_YEAR_FIRST, _DIGITS, _DAY_NAME, _NAME_DAY, _NUMERIC):
        rows = np.flatnonzero(np.isnat(time))
        rest = text.gather(rows)
        hit = rest.str.contains(pattern).fill_null(False).to_numpy()
        if not hit.any():
            continue
        parts = rest.filter(pl.Series(hit)).str.extract_groups(pattern).struct.unnest()
        if pattern == _NUMERIC:
            month, day, ambiguous = _month_and_day(parts, last)
        else:
            month, day = _month(parts), _ints(parts["day"])
        time[rows[hit]] = _join(_years(parts["year"], last), month, day) + _clock(parts)
        zones = parts["zone"].drop_nulls().str.strip_chars()
        zone = zone or (zones[0] if len(zones) else "")
    epoch = np.isnat(time) & text.str.contains(_EPOCH).fill_null(False).to_numpy()
    if epoch.any():
        time[epoch] = _epoch(text.filter(pl.Series(epoch)).cast(pl.Int64, strict=False))
        zone = zone or "epoch"
    return Dates(time, ambiguous, zone)


def _ints(column: pl.Series) -> Ints:
    """Small whole numbers, 0 where there is none; no month or day is 0."""
    return column.cast(pl.Int64, strict=False).fill_null(0).to_numpy()


def _years(column: pl.Series, last: np.datetime64) -> Ints:
    year = _ints(column)
    latest = int(str(last)[:4])
    return np.where(year >= 100, year, latest - (latest - year) % 100)


def _month(parts: pl.DataFrame) -> Ints:
    if "month" in parts.columns:
        return _ints(parts["month"])
    names = parts["name"].str.slice(0, 3).str.to_lowercase()
    return names.replace_strict(_MONTHS, default=0, return_dtype=pl.Int64).to_numpy()


def _join(year: Ints, month: Ints, day: Ints) -> Times:
    """Calendar dates, NaT for days that don't exist."""
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    real = (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]") == months)
    real &= (year >= 1800) & (year < 2200)
    days[~real] = np.datetime64("NaT")
    time: Times = days.astype("datetime64[s]")
    return time


def _clock(parts: pl.DataFrame) -> NDArray[np.timedelta64]:
    hour = _ints(parts["hour"])
    half = parts["half"].str.to_lowercase().fill_null("").to_numpy()
    hour = np.where(half == "pm", hour % 12 + 12, np.where(half == "am", hour % 12, hour))
    seconds = hour * 3600 + _ints(parts["minute"]) * 60 + _ints(parts["second"])
    return seconds.astype("timedelta64[s]")


def _epoch(value: pl.Series) -> Times:
    """Seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by their size."""
    number = value.fill_null(np.iinfo(np.int64).max).to_numpy()
    size = np.abs(number // 10**9)
    unit = np.select([size < 10**2, size < 10**5, size < 10**8], [1, 10**3, 10**6], 10**9)
    seconds = number // unit
    time: Times = seconds.astype("datetime64[s]")
    time[np.abs(seconds) >= _EPOCH_LIMIT] = np.datetime64("NaT")
    return time


def _month_and_day(parts: pl.DataFrame, last: np.datetime64) -> tuple[Ints, Ints, bool]:
    """Month and day of dates like 1/4/1999, decided by the whole column, and whether that is in doubt.

    A part above 12 decides. Else the order in which the dates are monotonic, then the one with fewer
    weekends; else the month comes first.
    """
    left, right = _ints(parts["left"]), _ints(parts["right"])
    over = int((left > 12).sum()), int((right > 12).sum())
    if over[0] != over[1]:
        return (right, left, False) if over[0] > over[1] else (left, right, False)
    year = _years(parts["year"], last)
    marks = [_disorder(_join(year, month, day)) for month, day in ((left, right), (right, left))]
    if marks[1] < marks[0]:
        return right, left, False
    return left, right, marks[0] == marks[1]


def _disorder(time: Times) -> tuple[bool, int]:
    """(whether dates run both ways, number of weekend dates): the smaller, the likelier the reading."""
    known = time[~np.isnat(time)].astype("datetime64[D]").astype(np.int64)
    steps = np.diff(known)
    weekends = int((~np.is_busday(known.astype("datetime64[D]"))).sum())
    return bool((steps > 0).any() and (steps < 0).any()), weekends


def parse_clock(column: pl.Series) -> NDArray[np.timedelta64]:
    """Times of day in a column of their own, 15:30:00 or 153000; midnight where unreadable."""
    text = column.cast(pl.String, strict=False).fill_null("").str.strip_chars().str.replace_all(":", "")
    number = _ints(text.str.pad_end(6, "0"))
    seconds = number // 10_000 * 3600 + number // 100 % 100 * 60 + number % 100
    return np.where((seconds >= 0) & (seconds < 86_400), seconds, 0).astype("timedelta64[s]")
