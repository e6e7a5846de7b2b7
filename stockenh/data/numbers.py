"""Prices and volumes as public exports write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_NOTHING: Final = ("", "-", "--", "null", "none", "nan", "na", "n/a", "#n/a", "nat", "<na>")
_GROUPED: Final = r"^[+-]?\d{1,3}(?:[,' \x{a0}]\d{2,3})*[,' \x{a0}]\d{3}(?:\.\d*)?$"
_DECIMAL_COMMA: Final = r"^[+-]?\d{1,3}(?:\.?\d{3})*,\d+$|^[+-]?\d+,\d+$"
_SCALES: Final = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Numbers:
    """A parsed column of n numbers.

    value:      (n,) float64, NaN where missing or unreadable
    unreadable: (n,) text that is neither a number nor a mark for a missing one
    """

    value: NDArray[np.float64]
    unreadable: NDArray[np.bool_]


def parse_numbers(column: pl.Series, decimal_comma: bool = False) -> Numbers:
    """Reads a column of text or numbers, n values.

    Thousands separators (1,234.5 and the Indian 12,34,567.8), currency signs and the suffixes K, M, B, T are
    understood; with `decimal_comma`, 1.234,5 is read as 1234.5.
    """
    if column.dtype.is_numeric():
        value = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return Numbers(value, np.zeros(len(value), bool))
    text = column.cast(pl.String)
    quick = text.cast(pl.Float64, strict=False)
    if not decimal_comma and quick.null_count() == text.null_count():
        return Numbers(quick.fill_null(np.nan).to_numpy(), np.zeros(len(text), bool))
    text = text.fill_null("").str.strip_chars(" \t\r\n\u00a0$€£₹")
    missing = text.str.to_lowercase().is_in(_NOTHING)
    loose = _loose(text, decimal_comma)
    return Numbers(loose.fill_null(np.nan).to_numpy(), (loose.is_null() & ~missing).to_numpy())


def uses_decimal_comma(column: pl.Series) -> bool:
    """Whether some value has a comma that can only be a decimal point, such as 179,68 or 1.234,5."""
    if column.dtype != pl.String:
        return False
    text = column.str.strip_chars()
    return bool((text.str.contains(_DECIMAL_COMMA) & ~text.str.contains(_GROUPED)).any())


def _loose(text: pl.Series, decimal_comma: bool) -> pl.Series:
    if decimal_comma:
        text = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    frame = text.to_frame("text")
    body = pl.col("text")
    grouped = body.str.contains(_GROUPED)
    scale = body.str.extract(r"\d\s?([KMBTkmbt])$").str.to_lowercase()
    cleaned = (
        pl.when(grouped)
        .then(body.str.replace_all(r"[,' \x{a0}]", ""))
        .when(scale.is_not_null())
        .then(body.str.replace(r"\s?[KMBTkmbt]$", ""))
        .otherwise(body)
    )
    factor = scale.replace_strict(_SCALES, default=1.0, return_dtype=pl.Float64)
    return frame.select((cleaned.cast(pl.Float64, strict=False) * factor).alias("value"))["value"]
