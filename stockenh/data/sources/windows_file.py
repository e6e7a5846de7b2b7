"""`data=windows`: ready samples from one Parquet, as notebooks write them, checked column by column.

Legend: n rows, T = 120 bars, E = embedding width, F context features, H horizons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data import Count, Horizons
from stockenh.data.cache import DiskCache
from stockenh.data.features import FeatureSettings, feature_names
from stockenh.data.findings import Finding, Level
from stockenh.data.sources import DataSettings, Loaded, check_horizons, located
from stockenh.data.windows import StoredWindows
from stockenh.errors import DataError

COLUMNS = ("symbol", "asof", "ohlcv_norm", "kronos_emb", "context", "y_ret", "y_up")
PRICE_COLUMNS = 5

_VECTORS = ("kronos_emb", "context")
_UNIT = 1 + 1e-5  # tolerance for float32 values scaled in another order of operations


@dataclass(frozen=True)
class WindowsData(DataSettings):
    """Ready samples in one Parquet."""

    brings_embedding: ClassVar[bool] = True
    brings_bars: ClassVar[bool] = False

    path: str = "???"
    horizons: Horizons = field(default_factory=lambda: [3, 5, 10])
    stride: Count = 1

    def __post_init__(self) -> None:
        check_horizons(self.horizons)

    def load(self, cache: DiskCache, labels: bool = True) -> Loaded:
        return Loaded(*read_windows(located(self.path), tuple(self.horizons)))


def read_windows(path: Path, horizons: tuple[int, ...]) -> tuple[StoredWindows, tuple[Finding, ...]]:
    """Reads `symbol, asof, ohlcv_norm (T x 5), kronos_emb (E), context (F), y_ret (H), y_up (H)`.

    Lists may be nested or flat. Rows with a missing or infinite input are left out with a count; a null in
    y_ret is a row without that label. Raises DataError naming the file and the column at fault.
    """
    frame = _frame(path)
    y_ret = _labels(path, frame, "y_ret", len(horizons))
    up = _labels(path, frame, "y_up", len(horizons))
    symbol, asof = _symbols(path, frame), _asof(path, frame)
    price = _prices(path, frame)
    embedding, context = (_matrix(path, frame, name).reshape(len(frame), -1) for name in _VECTORS)
    finite = np.isfinite(price).all((1, 2)) & np.isfinite(embedding).all(1) & np.isfinite(context).all(1)
    if not finite.any():
        raise DataError(f"{path}: every row has a missing or infinite number among its inputs")
    symbols, number = np.unique(symbol[finite], return_inverse=True)
    windows = StoredWindows(
        symbols=tuple(symbols.tolist()),
        symbol=number.astype(np.int32),
        asof=asof[finite],
        context=context[finite],
        context_names=_context_names(context.shape[1]),
        y_ret=np.where(np.isfinite(y_ret), y_ret, np.float32(np.nan))[finite],
        horizons=horizons,
        lookback=price.shape[1],
        ohlcv_norm=price[finite],
        embedding=embedding[finite],
    )
    infinite = int(np.isinf(y_ret[finite]).any(1).sum())
    return windows, _findings(path, windows, up[finite], int((~finite).sum()), infinite)


def _frame(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; data=windows needs data.path=FILE, a Parquet of ready samples"
        )
    try:
        names = list(pl.read_parquet_schema(path))
        missing = [c for c in COLUMNS if c not in names]
        if missing:
            raise DataError(f"{path}: lacks the column(s) {', '.join(missing)}; it has {', '.join(names)}")
        frame = pl.read_parquet(path, columns=list(COLUMNS))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: is not a readable Parquet file ({reason})") from None
    if not len(frame):
        raise DataError(f"{path}: has no rows")
    return frame


def _labels(path: Path, frame: pl.DataFrame, name: str, horizons: int) -> NDArray[np.float32]:
    values = _matrix(path, frame, name).reshape(len(frame), -1)
    if values.shape[1] != horizons:
        raise DataError(
            f"{path}: {name} has {values.shape[1]} numbers a row where data.horizons has {horizons}"
        )
    return values


def _prices(path: Path, frame: pl.DataFrame) -> NDArray[np.float32]:
    values = _matrix(path, frame, "ohlcv_norm")
    if values.ndim > 2 and values.shape[-1] != PRICE_COLUMNS:
        shape = " x ".join(map(str, values.shape[1:]))
        raise DataError(
            f"{path}: ohlcv_norm is {shape} a row; write bars x {PRICE_COLUMNS}, for example 120 x 5"
        )
    flat = values.reshape(len(frame), -1)
    if flat.shape[1] % PRICE_COLUMNS:
        raise DataError(
            f"{path}: ohlcv_norm has {flat.shape[1]} numbers a row, not a multiple of {PRICE_COLUMNS}"
        )
    return flat.reshape(len(frame), -1, PRICE_COLUMNS)


def _matrix(path: Path, frame: pl.DataFrame, name: str) -> NDArray[np.float32]:
    """A column of (nested) lists as (n, ...), a number as (n, 1); what is null becomes NaN."""
    column = frame[name]
    there = column.is_not_null().to_numpy()
    column = column.drop_nulls()
    shape: list[int] = []
    while isinstance(column.dtype, pl.List | pl.Array):
        lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
        widths = lists.list.len().fill_null(0).unique().to_list()
        if len(widths) > 1:
            raise DataError(f"{path}: rows of {name} differ in length")
        if widths == [0]:
            raise DataError(f"{path}: rows of {name} are empty lists")
        shape += widths
        column = lists.explode()
    if not column.dtype.is_numeric() and column.dtype not in (pl.Boolean, pl.Null):
        raise DataError(f"{path}: column {name} does not hold lists of numbers but {frame[name].dtype}")
    values = np.full((len(frame), *(shape or [1])), np.nan, np.float32)
    values[there] = column.cast(pl.Float32).fill_null(np.nan).to_numpy().reshape(-1, *values.shape[1:])
    return values


def _symbols(path: Path, frame: pl.DataFrame) -> NDArray[np.str_]:
    column = frame["symbol"]
    try:
        names = column.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise DataError(f"{path}: column symbol does not hold names but {column.dtype}") from None
    if names.null_count():
        raise DataError(f"{path}: column symbol has {names.null_count()} rows without a name")
    return names.to_numpy().astype(np.str_)


def _asof(path: Path, frame: pl.DataFrame) -> NDArray[np.datetime64]:
    column = frame["asof"]
    refusal = DataError(
        f"{path}: column asof does not hold dates but {column.dtype}; write dates or 2024-01-31"
    )
    try:
        if column.dtype == pl.String:
            column = column.str.to_datetime(time_unit="ms")
    except pl.exceptions.PolarsError:
        raise refusal from None
    if isinstance(column.dtype, pl.Datetime):
        column = column.dt.replace_time_zone(None)
    elif column.dtype != pl.Date:
        raise refusal
    if column.null_count():
        raise DataError(f"{path}: column asof has {column.null_count()} rows without a date")
    return column.cast(pl.Datetime("ms")).to_numpy().astype("datetime64[s]")


def _context_names(width: int) -> tuple[str, ...]:
    names = feature_names(FeatureSettings())
    return names if len(names) == width else tuple(f"context_{i}" for i in range(width))


def _findings(
    path: Path, windows: StoredWindows, up: NDArray[np.float32], dropped: int, infinite: int
) -> tuple[Finding, ...]:
    returns = windows.y_ret
    counted = np.isfinite(returns) & np.isfinite(up) & (returns != 0)
    disagree = int((counted & (up != (returns > 0))).any(1).sum())
    outside = int((np.abs(windows.ohlcv_norm) > _UNIT).any((1, 2)).sum())
    rows = np.stack([windows.symbol, windows.asof.astype(np.int64)], 1)
    twice = len(rows) - len(np.unique(rows, axis=0))
    seen: list[tuple[Level, str, str, str, int]] = [
        ("drop", "non-finite-input", "rows with a missing or infinite input were left out",
         "write finite inputs", dropped),
        ("warning", "infinite-label", "rows have an infinite y_ret, which is left out as a label",
         "write finite returns, or null where there is none", infinite),
        ("warning", "y-up-disagrees", "rows have a y_up that is not y_ret > 0; y_ret is used",
         "write y_up as y_ret > 0", disagree),
        ("warning", "not-normalised", "rows have ohlcv_norm beyond [-1, 1]",
         "scale each window to [-1, 1], open to close jointly", outside),
        ("warning", "duplicate-row", "rows repeat a symbol and asof", "write each window once", twice),
    ]  # fmt: skip
    return tuple(
        Finding(level, rule, f"{count} {what}", fix, path.name, rows=count)
        for level, rule, what, fix, count in seen
        if count
    )
