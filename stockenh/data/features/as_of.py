"""The user's own columns at every bar: the last row that was known, and whether there was one.

Legend: N bars of all series, n bars of one symbol, m rows of one column and symbol, P past columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import Bars
from stockenh.data.extra import MOST_CATEGORIES, ExtraColumns
from stockenh.data.findings import Finding, first_few

Times = NDArray[np.datetime64]
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


def extra_features(bars: Bars, extra: ExtraColumns) -> NDArray[np.float32]:
    """(N, 2 P) of each past column its value, NaN where it is missing, and 1 there, else 0.

    The value at a bar is that of the last row at or before the bar `lag` bars earlier, of the same symbol. An
    empty cell is missing; so is a row of more than `max_age` bars. On daily bars a row belongs to its date,
    whatever its time of day.
    """
    settings = extra.settings
    found = np.full((len(bars), 2 * len(extra.past)), np.nan, np.float32)
    place = {name: s for s, name in enumerate(extra.symbols)}
    for symbol, rows in symbol_rows(bars):
        if symbol not in place:
            continue
        time = bars.time[rows]
        clock = _clock(bars, rows)
        is_daily = bool((time == time.astype("datetime64[D]")).all())
        for at, column in enumerate(extra.past):
            own = slice(*column.offsets[place[symbol] : place[symbol] + 2])
            known, value = column.time[own], column.value[own]
            if is_daily:
                known = known.astype("datetime64[D]").astype("datetime64[s]")
            joined = as_of(time, clock, known, value, settings.max_age)
            found[rows.start + settings.lag : rows.stop, 2 * at] = joined[: max(len(time) - settings.lag, 0)]
    found[:, 1::2] = np.isnan(found[:, ::2])
    return found


def symbol_rows(bars: Bars) -> Iterator[tuple[str, slice]]:
    """Each symbol and its rows, whose series follow each other."""
    names = bars.symbols
    first = [s for s, name in enumerate(names) if s == 0 or name != names[s - 1]]
    for begin, end in pairwise([*first, len(names)]):
        yield names[begin], slice(int(bars.offsets[begin]), int(bars.offsets[end]))


def as_of(time: Times, clock: Numbers, known: Times, value: Floats, max_age: int | None) -> Floats:
    """(n,) at each bar the value of the last row at or before it; NaN where there is none, or it is too old.

    time: (n,) of the bars, and clock: (n,) their numbers, see `_clock`; known: (m,) of the rows, not
    decreasing; value: (m,).
    """
    if not len(known):
        return np.full(len(time), np.nan)
    last = np.searchsorted(known, time, side="right") - 1
    found = np.where(last >= 0, value[np.maximum(last, 0)], np.nan)
    if max_age is not None:
        bar = np.searchsorted(time, known, side="right") - 1
        of_bar = np.maximum(bar, 0)
        # weekdays in place of bars before the first bar, and in a gap of the history
        since = np.where(bar < 0, -_weekdays(known, time[of_bar]), _weekdays(time[of_bar], known))
        gap = np.append(clock[1:], clock[-1:] + 1)[of_bar] - clock[of_bar] - 1
        born = clock[of_bar] + np.where(bar < 0, since, np.minimum(since, gap))
        found[clock - born[np.maximum(last, 0)] > max_age] = np.nan
    return found


def _clock(bars: Bars, rows: slice) -> Numbers:
    """(n,) numbers of a symbol's bars, which run on by the weekdays of a gap between two series."""
    steps = np.ones(rows.stop - rows.start, np.int64)
    for begin in bars.offsets[(bars.offsets > rows.start) & (bars.offsets < rows.stop)].tolist():
        gap = _weekdays(bars.time[begin - 1 : begin], bars.time[begin : begin + 1])
        steps[begin - rows.start] = max(int(gap[0]), 1)
    return np.cumsum(steps)


def _weekdays(first: Times, last: Times) -> Numbers:
    return np.busday_count(first.astype("datetime64[D]"), last.astype("datetime64[D]")).astype(np.int64)


def coverage(bars: Bars, extra: ExtraColumns, features: NDArray[np.float32]) -> list[Finding]:
    """Where own columns say nothing: bars and symbols without a value, symbols without bars, one value only.

    An error where a column has no value at any bar, or too many categories. features: of `extra_features`.
    """
    symbols = list(dict.fromkeys(bars.symbols))
    fix = "write symbols as the bars have them, or remove these rows"
    unknown = sorted(set(extra.symbols) - set(symbols))
    found = []
    if unknown:
        message = f"{len(unknown)} symbols of the own columns have no bars: {first_few(unknown, 5)}"
        found.append(Finding("warning", "extra-symbols", message, fix, rows=len(unknown)))
    for at, name in enumerate(extra.settings.past):
        found += _coverage_of(name, features[:, 2 * at], bars, extra)
    for name, categories in zip(extra.settings.static, extra.category(symbols), strict=True):
        found += _coverage_of_categories(name, categories, symbols)
    return found


def _coverage_of(name: str, value: NDArray[np.float32], bars: Bars, extra: ExtraColumns) -> Iterator[Finding]:
    known, lag = ~np.isnan(value), extra.settings.lag
    if not known.any():
        longest = max(rows.stop - rows.start for _, rows in symbol_rows(bars))
        why = f"data.extra.lag={lag} bars is longer than any history" if lag >= longest else (
            "its rows are of other symbols, of later dates, or empty"
        )  # fmt: skip
        fix = "check the column's symbols and dates, or leave it out of data.extra.past"
        yield Finding("error", "extra-empty", f"{name!r} has no value at any bar: {why}", fix)
        return
    if (value[known] == value[known][0]).all():
        message, fix = f"{name!r} has one value only, {value[known][0]:g}", "leave it out: it says nothing"
        yield Finding("warning", "extra-constant", message, fix)
    lacking = [symbol for symbol, rows in symbol_rows(bars) if not known[rows].any()]
    expected = sum(max(rows.stop - rows.start - lag, 0) for _, rows in symbol_rows(bars))
    if (missing := expected - int(known.sum())) > 0:
        first = str(bars.time[known].min())[:10]
        of = f", {len(lacking)} symbols have none: {first_few(lacking, 5)}" if lacking else ""
        message = (
            f"{name!r} is missing at {missing:,} of {expected:,} bars; the first value is of {first}{of}"
        )
        fix = "nothing to do: the models see that it is missing, and nothing is filled in"
        yield Finding("warning", "extra-missing", message, fix, date=first, rows=missing)


def _coverage_of_categories(name: str, categories: tuple[str, ...], symbols: list[str]) -> Iterator[Finding]:
    known = {category for category in categories if category}
    if not known:
        fix = "check the symbols of its file, or leave it out of data.extra.static"
        yield Finding("error", "extra-empty", f"{name!r} has no category for any symbol of the bars", fix)
    elif len(known) > MOST_CATEGORIES:
        message = f"{name!r} has {len(known):,} categories, and at most {MOST_CATEGORIES:,} are possible"
        yield Finding("error", "extra-categories", message, "join them into groups such as sectors")
    elif len(known) == 1:
        message, fix = f"{name!r} has one category only, {known.pop()!r}", "leave it out: it says nothing"
        yield Finding("warning", "extra-constant", message, fix)
    if lacking := [symbol for symbol, of in zip(symbols, categories, strict=True) if not of]:
        message = f"{name!r} has no category for {len(lacking)} symbols: {first_few(lacking, 5)}"
        fix = "nothing to do, or add them: they count as unknown"
        yield Finding("warning", "extra-missing", message, fix, rows=len(lacking))
