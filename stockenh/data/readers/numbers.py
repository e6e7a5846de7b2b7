"""Prices and volumes as public exports write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_NOTHING: Final = ("", "-", "--", "null", "none", "nan", "na", "n/a", "#n/a", "nat", "<na>")
_AROUND: Final = " \t\r\n\u00a0$€£₹"
_GROUPED: Final = r"^[+-]?\d{1,3}(?:[,' \x{a0}\x{202f}]\d{2,3})*[,' \x{a0}\x{202f}]\d{3}(?:\.\d*)?$"
_WITH_COMMA: Final = (
    r"^[+-]?(?:\d+|\d{1,3}(?:[.' \x{a0}\x{202f}]\d{3})+)?(?:,\d*)?(?:[eE][+-]?\d+)?\s?[KMBTkmbt]?$"
)
_SCALES: Final = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
# Numbers with one possible reading. 1,234 and 1.234 have two: thousands, or three decimals.
_COMMA_DECIMAL: Final = (
    r"^[+-]?(?:\d*,\d{1,2}|\d*,\d{4,}|\d{4,},\d{3}|0\d*,\d+|,\d+|\d{1,3}(?:\.\d{3})+,\d*"
    r"|\d{1,3}(?:\.\d{3}){2,})$"
)
_POINT_DECIMAL: Final = (
    r"^[+-]?(?:\d*\.\d{1,2}|\d*\.\d{4,}|\d{4,}\.\d{3}|0\d*\.\d+|\.\d+|\d{1,3}(?:,\d{2,3})*,\d{3}\.\d*"
    r"|\d{1,3}(?:,\d{2,3})+,\d{3})$"
)
_COMMA_EITHER: Final = r"^[+-]?[1-9]\d{0,2},\d{3}$"
_POINT_EITHER: Final = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"


@dataclass(frozen=True)
class Numbers:
    """A parsed column of n numbers.

    value:      (n,) float64, NaN where missing or unreadable
    unreadable: (n,) text that is neither a number nor a mark for a missing one
    plain:      all numbers are in machine notation, without commas, groups or units
    """

    value: NDArray[np.float64]
    unreadable: NDArray[np.bool_]
    plain: bool = True


@dataclass(frozen=True)
class DecimalSign:
    """How a file writes decimals, judged by all its numbers.

    comma:  a comma is the decimal sign, and a point divides thousands
    mixed:  columns some of whose numbers prove the other sign
    doubt:  "" or an example that fits both signs, where no number decides
    clash:  "" or how two columns contradict each other
    """

    comma: bool = False
    mixed: frozenset[str] = frozenset()
    doubt: str = ""
    clash: str = ""


def parse_numbers(column: pl.Series, sign: DecimalSign | None = None, name: str = "") -> Numbers:
    """Reads a column of text or numbers, n values.

    Thousands separators (1,234.5 and the Indian 12,34,567.8), currency signs and the suffixes K, M, B, T are
    understood; with a decimal comma, 1.234,5 is read as 1234.5. In a column whose numbers prove both signs,
    1,234 under a decimal point and 1.234 under a decimal comma stay unread.
    """
    sign = sign or DecimalSign()
    if column.dtype.is_numeric():
        value = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return Numbers(value, np.zeros(len(value), bool))
    text = column.cast(pl.String)
    quick = text.cast(pl.Float64, strict=False)
    value, unreadable = quick.to_numpy(), np.zeros(len(text), bool)  # null becomes NaN
    if not sign.comma and quick.null_count() == text.null_count():
        return Numbers(value, unreadable)
    odd = text.is_not_null() if sign.comma else quick.is_null() & text.is_not_null()
    rows = np.flatnonzero(odd.to_numpy())
    rest = text.gather(rows)
    if not sign.comma and _all_missing(rest):
        return Numbers(value, unreadable)
    rest = rest.str.strip_chars(_AROUND)
    missing = rest.str.to_lowercase().is_in(_NOTHING)
    if name in sign.mixed:
        either = rest.str.contains(_POINT_EITHER if sign.comma else _COMMA_EITHER)
        rest = rest.set(either, "?")
    loose = _loose(_with_point(rest) if sign.comma else rest)
    value = value.copy()
    value[rows] = loose.fill_null(np.nan).to_numpy()
    unreadable[rows] = (loose.is_null() & ~missing).to_numpy()
    return Numbers(value, unreadable, plain=False)


def is_empty(column: pl.Series) -> bool:
    """Whether a column holds nothing but marks for a missing number."""
    if column.dtype.is_numeric():
        return column.cast(pl.Float64).drop_nulls().drop_nans().is_empty()
    return _all_missing(column.cast(pl.String).drop_nulls())


def _all_missing(text: pl.Series) -> bool:
    """Whether all (n,) are marks for a missing number; the first one usually decides."""
    if len(text) and text[0].strip(_AROUND).lower() not in _NOTHING:
        return False
    return all(mark.strip(_AROUND).lower() in _NOTHING for mark in text.unique())


def decimal_sign(columns: Mapping[str, pl.Series], separator: str) -> DecimalSign:
    """The decimal sign of a file's columns of prices and volume.

    A column votes for a comma where some of its numbers prove one and most of those with a comma or a point
    agree with it; likewise for a point. Columns that disagree are a clash. Where no column votes, 1,234 is a
    decimal comma between semicolons or tabs, unless the volume is written so too, and else thousands.
    """
    texts = {name: column for name, column in columns.items() if column.dtype == pl.String}
    votes = _votes(pl.DataFrame(texts)) if texts else {}
    comma = [name for name, vote in votes.items() if vote.is_comma]
    point = [name for name, vote in votes.items() if vote.is_point]
    mixed = frozenset(name for name, vote in votes.items() if vote.comma and vote.point)
    if comma and point:
        clash = (
            f"{comma[0]} has a decimal comma ({_first(texts[comma[0]], _COMMA_DECIMAL)!r}) and {point[0]} "
            f"a decimal point ({_first(texts[point[0]], _POINT_DECIMAL)!r})"
        )
        return DecimalSign(mixed=mixed, clash=clash)
    if comma or point:
        return DecimalSign(bool(comma), mixed)
    unsure = [name for name, vote in votes.items() if vote.comma_either and name != "volume"]
    if not unsure:
        return DecimalSign(False, mixed)
    doubt = _first(texts[unsure[0]], _COMMA_EITHER)
    if any(votes[name].point_either for name in unsure):
        return DecimalSign(mixed=mixed, clash=f"{unsure[0]} has {doubt!r} beside points alike")
    grouped = "volume" in votes and votes["volume"].comma_either > 0
    return DecimalSign(separator != "," and not grouped, mixed, doubt)


@dataclass(frozen=True)
class _Vote:
    """How many numbers of a column prove either sign, or fit both."""

    comma: int
    point: int
    comma_either: int
    point_either: int

    @property
    def is_comma(self) -> bool:
        return self.comma > 0 and self.comma + self.comma_either > self.point + self.point_either

    @property
    def is_point(self) -> bool:
        return self.point > 0 and self.comma + self.comma_either <= self.point + self.point_either


def _votes(columns: pl.DataFrame) -> dict[str, _Vote]:
    bodies = columns.select(_body(pl.all()))
    kinds = (_COMMA_DECIMAL, _POINT_DECIMAL, _COMMA_EITHER, _POINT_EITHER)
    counts = [bodies.select(pl.all().str.contains(kind).sum()).row(0) for kind in kinds]
    return {name: _Vote(*kinds) for name, *kinds in zip(columns.columns, *counts, strict=True)}


def _first(column: pl.Series, kind: str) -> str:
    frame = column.to_frame("text")
    return str(frame.filter(_body(pl.col("text")).str.contains(kind))["text"][0])


def _body(text: pl.Expr) -> pl.Expr:
    """A number without currency, unit and thousands separators other than point and comma."""
    bare = text.str.strip_chars(_AROUND)
    return bare.str.replace_all(r"[' \x{a0}\x{202f}]", "").str.strip_chars_end("KMBTkmbt")


def _with_point(text: pl.Series) -> pl.Series:
    """Numbers with a decimal comma, rewritten with a decimal point; anything else becomes unreadable."""
    fits = text.str.contains(_WITH_COMMA)
    point = text.str.replace_all(r"[.' \x{a0}\x{202f}]", "").str.replace(",", ".", literal=True)
    return point.set(~fits, "?")


def _loose(text: pl.Series) -> pl.Series:
    """Numbers with thousands separators or unit suffixes; null where unreadable."""
    frame = text.to_frame("text")
    body = pl.col("text")
    grouped = body.str.contains(_GROUPED)
    scale = body.str.extract(r"\d\s?([KMBTkmbt])$").str.to_lowercase()
    cleaned = (
        pl.when(grouped)
        .then(body.str.replace_all(r"[,' \x{a0}\x{202f}]", ""))
        .when(scale.is_not_null())
        .then(body.str.replace(r"\s?[KMBTkmbt]$", ""))
        .otherwise(body)
    )
    factor = scale.replace_strict(_SCALES, default=1.0, return_dtype=pl.Float64)
    return frame.select((cleaned.cast(pl.Float64, strict=False) * factor).alias("value"))["value"]
