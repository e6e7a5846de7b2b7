"""Dates as public exports write them, read as wall-clock time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_ZONE: Final = (
    r"Z|UTC|GMT|[A-Z]{2,4}T|[+-]\d{2}(?::?\d{2}){0,2}|(?:UTC|GMT)[+-]\d{1,2}(?::?\d{2})?|[A-Z][A-Za-z]+(?:/[A-Za-z0-9_+-]+)+"
    r"|EST5EDT|CST6CDT|MST7MDT|PST8PDT|Japan|Hongkong|Singapore|Israel|Turkey|Poland|Portugal|Egypt|Iran|PRC"
    r"|ROC|ROK|NZ|GB|Eire|Zulu"
)
_TIME: Final = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]\d+)?)?(?: ?(?P<half>[AaPp][Mm]))?"
)
_AFTER: Final = rf"(?: *[\[(]?(?P<zone>{_ZONE})[\])]?(?:\[[A-Za-z0-9_/+-]+\])?)?$"
_CLOCK: Final = rf"(?:(?:T|,? +){_TIME})?{_AFTER}"
_YEAR_FIRST: Final = r"^(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})" + _CLOCK
_DIGITS: Final = r"^(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})" + _CLOCK
_DAY_NAME: Final = (
    r"^(?P<day>\d{1,2})[-/. ]?(?P<name>[A-Za-z]{3,9})[-/., ]{0,2}(?P<year>\d{4}|\d{2})" + _CLOCK
)
_NAME_DAY: Final = r"^(?P<name>[A-Za-z]{3,9})[-. ]{1,2}(?P<day>\d{1,2}),?[- ](?P<year>\d{4})" + _CLOCK
_NUMERIC: Final = r"^(?P<left>\d{1,2})[-/.](?P<right>\d{1,2})[-/.](?P<year>\d{4}|\d{2})" + _CLOCK
# Interactive Brokers writes UTC as 20240102-14:30:00: -14:30:00 is the time of day and no zone.
_UTC_DASH: Final = (
    r"^(\d{8}|\d{4}[-/.]\d{2}[-/.]\d{2})-(\d{2}:\d{2}:\d{2}(?:\.\d+)?)$",
    r"^(\d{8})-(\d{2}:\d{2})$",
)
_EPOCH: Final = r"^-?\d{9,19}(?:\.\d*)?$"
_EPOCH_FLOAT: Final = r"^\d\.\d+[eE]\+?(?:09|9|1[0-8])$"
_FEW_DIGITS: Final = r"^\d\.\d{0,5}[eE]"  # a spreadsheet's 1.70415E+12 has lost the time, and often the day
_EPOCH_LIMIT: Final = 7_258_118_400  # seconds to the year 2200
_MONTHS: Final = {
    **{"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6},
    **{"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12},
}

_MOST_SLIPS: Final = 0.05
_FEW_DATES: Final = 3

Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]
_NO_TIMES: Final = np.empty(0, "datetime64[s]")


@dataclass(frozen=True)
class DateOrder:
    """What dates like 1/4/1999 tell about the order of day and month.

    Pairs are for (day first, month first).

    form:     how they are written, such as 0/0/0000 without digits' values
    count:    how many different dates there are
    proven:   dates that are only possible in this order: one part is above 12
    both_ways: whether dates run both forwards and backwards in this order
    weekends: dates on a weekend in this order
    """

    form: str
    count: int
    proven: tuple[int, int]
    both_ways: tuple[bool, bool]
    weekends: tuple[int, int]

    @property
    def proof(self) -> bool | None:
        """Whether a part above 12 proves that the day comes first; None where there is none."""
        return None if self.proven[0] == self.proven[1] else self.proven[0] > self.proven[1]

    @property
    def clash(self) -> bool:
        """Whether both orders are proven, by more than a few slips of the pen."""
        return min(self.proven) > _MOST_SLIPS * max(self.proven)

    @property
    def runs(self) -> bool | None:
        """Whether the dates run one way through time only if the day comes first."""
        if self.count < _FEW_DATES or self.both_ways[0] == self.both_ways[1]:
            return None
        return self.both_ways[1]

    @property
    def likely(self) -> bool | None:
        """`runs`, else whether far fewer dates lie on weekends if the day comes first."""
        return by_weekends(self.weekends) if self.runs is None else self.runs


def by_weekends(weekends: tuple[int, int]) -> bool | None:
    """Whether the day comes first, judged by the dates on weekends (day first, month first)."""
    if 4 * min(weekends) > max(weekends) or weekends[0] == weekends[1]:
        return None
    return weekends[0] < weekends[1]


@dataclass(frozen=True)
class Dates:
    """A parsed column of n dates.

    time:      (n,) datetime64[s] as written, without its zone; NaT where unreadable
    zone:      the first zone that was dropped ("epoch" for seconds since 1970, read as UTC), or ""
    order:     what dates like 1/4/1999 tell about their order; None where there are none
    day_first: the order in which they were read
    ambiguous: nothing decided the order, and month first was assumed
    """

    time: Times
    zone: str = ""
    order: DateOrder | None = None
    day_first: bool = False
    ambiguous: bool = False


def parse_dates(column: pl.Series, today: np.datetime64, day_first: bool | None = None) -> Dates:
    """Reads a column of text, numbers, dates or timestamps, n values.

    A year of two digits is the latest one that has begun by the end of tomorrow. day_first: the order in
    dates like 1/4/1999 where no date of the column proves one; None: the likely one.
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
    return _parse_text(text.str.strip_chars(), last_day(today), day_first)


def last_day(today: np.datetime64) -> np.datetime64:
    """The last possible day of a bar: tomorrow, which has begun in other time zones."""
    day: np.datetime64 = today.astype("datetime64[D]") + np.timedelta64(1, "D")
    return day


def _parse_text(text: pl.Series, last: np.datetime64, day_first: bool | None) -> Dates:
    time = np.full(len(text), np.datetime64("NaT"), "datetime64[s]")
    found = Dates(time)
    for form in _UTC_DASH:
        text = text.str.replace(form, "${1} ${2} UTC")
    for pattern in (_YEAR_FIRST, _DIGITS, _DAY_NAME, _NAME_DAY, _NUMERIC):
        rows = np.flatnonzero(np.isnat(time))
        rest = text.gather(rows)
        hit = rest.str.contains(pattern).fill_null(False).to_numpy()
        if not hit.any():
            continue
        parts = rest.filter(pl.Series(hit)).str.extract_groups(pattern).struct.unnest()
        if pattern == _NUMERIC:
            form = re.sub(r"\d+", lambda digits: "0" * len(digits[0]), rest.filter(pl.Series(hit))[0])
            days, found = _numeric(parts, last, day_first, re.sub("^0+(.)0+", r"0\1", form))
        else:
            days = _join(_years(parts["year"], last), _month(parts), _ints(parts["day"]))
        time[rows[hit]] = days + _clock(parts)
        zones = parts["zone"].drop_nulls().str.strip_chars()
        found = replace(found, zone=found.zone or (zones[0] if len(zones) else ""))
    epoch, seconds = _epochs(text, np.isnat(time))
    time[epoch] = seconds
    return replace(found, time=time, zone=found.zone or ("epoch" if epoch.any() else ""))


def _epochs(text: pl.Series, unread: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Times]:
    """Which unread texts (n,) count from 1970, as 1704153600, 1704153600.0 or 1.7041536e+18; their times."""
    if not unread.any():
        return unread, np.empty(0, "datetime64[s]")
    whole = unread & text.str.contains(_EPOCH).fill_null(False).to_numpy()
    floating = unread & text.str.contains(_EPOCH_FLOAT).fill_null(False).to_numpy()
    number = text.str.extract(r"^(-?\d+)").cast(pl.Int64, strict=False)
    if floating.any():
        exact = text.filter(pl.Series(floating)).cast(pl.Float64).cast(pl.Int64, strict=False)
        number = number.scatter(np.flatnonzero(floating), exact)
        short = bool(text.filter(pl.Series(floating)).str.contains(_FEW_DIGITS).all())
        if short and (_epoch(exact).astype(np.int64) % 86_400 != 0).any():
            floating &= False
    hit = whole | floating
    return hit, _epoch(number.filter(pl.Series(hit)))


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


def _numeric(
    parts: pl.DataFrame, last: np.datetime64, day_first: bool | None, form: str
) -> tuple[Times, Dates]:
    """Days (n,) of dates like 1/4/1999 in one order, and what they tell about it.

    A part above 12 decides, else `day_first`. Else the order in which the dates run one way through time,
    then the one with far fewer weekends; else the month comes first.
    """
    left, right = _ints(parts["left"]), _ints(parts["right"])
    if _year_is_left(parts):
        return _join(_years(parts["left"], last), right, _ints(parts["year"])), Dates(_NO_TIMES)
    year = _years(parts["year"], last)
    readings = _join(year, right, left), _join(year, left, right)
    real = [~np.isnat(reading) for reading in readings]
    marks = [_disorder(reading) for reading in readings]
    order = DateOrder(
        form,
        count=len(np.unique(readings[1])),
        proven=(int((real[0] & ~real[1]).sum()), int((real[1] & ~real[0]).sum())),
        both_ways=(marks[0][0], marks[1][0]),
        weekends=(marks[0][1], marks[1][1]),
    )
    first = next((f for f in (order.proof, day_first, order.likely) if f is not None), None)
    return readings[0 if first else 1], Dates(_NO_TIMES, "", order, bool(first), first is None)


def _year_is_left(parts: pl.DataFrame) -> bool:
    """Whether 24/01/31 begins with the year: the last part changes most often."""
    if (parts["year"].str.len_chars() > 2).any():
        return False
    changes = [int((np.diff(_ints(parts[name])) != 0).sum()) for name in ("left", "right", "year")]
    return changes[2] > max(changes[:2])


def _disorder(time: Times) -> tuple[bool, int]:
    """(whether dates run both ways, number of different dates on a weekend)."""
    known = time[~np.isnat(time)].astype("datetime64[D]")
    steps = np.diff(known.astype(np.int64))
    weekends = int((~np.is_busday(np.unique(known))).sum())
    return bool((steps > 0).any() and (steps < 0).any()), weekends


def parse_clock(column: pl.Series) -> NDArray[np.timedelta64]:
    """Times of day in a column of their own, 15:30:00 or 153000; midnight where unreadable."""
    text = column.cast(pl.String, strict=False).fill_null("").str.strip_chars().str.replace_all(":", "")
    number = _ints(text.str.pad_end(6, "0"))
    seconds = number // 10_000 * 3600 + number // 100 % 100 * 60 + number % 100
    return np.where((seconds >= 0) & (seconds < 86_400), seconds, 0).astype("timedelta64[s]")
