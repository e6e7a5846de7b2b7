"""Rows and tables as commands write them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.storage.files import write_atomic

Entry = TypeVar("Entry", bound=np.generic)


def evenly(rows: NDArray[Entry], count: int) -> NDArray[Entry]:
    """At most `count` of the rows, evenly spread, the first and the last among them."""
    if count >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def dates_of(asof: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Days where the times are whole days, else milliseconds, as a file shows them."""
    days = asof.astype("datetime64[D]")
    return days if (days == asof).all() else asof.astype("datetime64[ms]")


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Leaves a table as path.parquet and path.csv, whose text a spreadsheet does not take for formulas."""
    for suffix, write in ((".parquet", frame.write_parquet), (".csv", quoted(frame).write_csv)):
        content = io.BytesIO()
        write(content)
        write_atomic(path.with_name(path.name + suffix), content.getbuffer())


# Beginnings of a cell that spreadsheets execute (OWASP, CSV injection), full-width forms among them.
_FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"


def quoted(frame: pl.DataFrame) -> pl.DataFrame:
    """A table whose text cells and column names have an apostrophe before what would begin a formula."""
    text = pl.col(pl.String, pl.Categorical, pl.Enum).cast(pl.String)
    found = frame.with_columns(text.str.replace(f"({_FORMULA})", "'${1}"))
    return found.rename({name: f"'{name}" for name in frame.columns if re.match(_FORMULA, name)})
