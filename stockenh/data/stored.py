"""Ready samples from one Parquet: the file that notebooks write, checked column by column.

Legend: n rows, T = 120 bars, E = embedding width, F context features, H horizons.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stockenh.data.features import FeatureSettings, feature_names
from stockenh.data.findings import Finding
from stockenh.data.windows import StoredWindows
from stockenh.errors import DataError

COLUMNS = ("symbol", "asof", "ohlcv_norm", "kronos_emb", "context", "y_ret", "y_up")
PRICE_COLUMNS = 5


def read_windows(path: Path, horizons: tuple[int, ...]) -> tuple[StoredWindows, tuple[Finding, ...]]:
    """Reads `symbol, asof, ohlcv_norm (T x 5), kronos_emb (E), context (F), y_ret (H), y_up (H)`.

    Lists may be nested or flat. Rows with a non-finite input are left out with a count; a null in y_ret
    is a row without that label. Raises DataError naming the file and the column at fault.
    """
    frame = _frame(path)
    y_ret = _matrix(path, frame, "y_ret", len(horizons)).astype(np.float32)
    price = _matrix(path, frame, "ohlcv_norm", None)
    if price.shape[1] % PRICE_COLUMNS:
        raise DataError(
            f"{path}: ohlcv_norm has {price.shape[1]} numbers a row, not a multiple of {PRICE_COLUMNS}"
        )
    embedding = _matrix(path, frame, "kronos_emb", None)
    context = _matrix(path, frame, "context", None)
    finite = np.isfinite(price).all(1) & np.isfinite(embedding).all(1) & np.isfinite(context).all(1)
    if not finite.any():
        raise DataError(f"{path}: every row has a missing or infinite number among its inputs")
    names = frame["symbol"].cast(pl.String).fill_null("?").to_numpy()[finite]
    symbols, symbol = np.unique(names.astype(str), return_inverse=True)
    windows = StoredWindows(
        symbols=tuple(symbols.tolist()),
        symbol=symbol.astype(np.int32),
        asof=_asof(path, frame)[finite],
        context=context[finite].astype(np.float32),
        context_names=_context_names(context.shape[1]),
        y_ret=np.where(np.isfinite(y_ret), y_ret, np.nan)[finite],
        horizons=horizons,
        lookback=price.shape[1] // PRICE_COLUMNS,
        ohlcv_norm=price[finite].astype(np.float32).reshape(int(finite.sum()), -1, PRICE_COLUMNS),
        embedding=embedding[finite].astype(np.float32),
    )
    up = _matrix(path, frame, "y_up", len(horizons))[finite]
    return windows, _findings(path, windows, up, int((~finite).sum()))


def _frame(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; data=windows needs data.path=FILE, a Parquet of ready samples"
        )
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: is not a readable Parquet file ({str(error).splitlines()[0]})") from None
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: lacks the column(s) {', '.join(missing)}; it has {', '.join(frame.columns)}"
        )
    if not len(frame):
        raise DataError(f"{path}: has no rows")
    return frame


def _matrix(path: Path, frame: pl.DataFrame, name: str, width: int | None) -> NDArray[np.float64]:
    """A column of (nested) lists as (n, width); nulls become NaN."""
    column = frame[name]
    try:
        while isinstance(column.dtype, pl.List | pl.Array):
            column = column.explode(empty_as_null=True)
        flat = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    except pl.exceptions.PolarsError:
        raise DataError(f"{path}: column {name} does not hold lists of numbers") from None
    got = len(flat) / len(frame)
    if width is None and got != int(got):
        raise DataError(f"{path}: rows of {name} differ in length")
    if width is not None and got != width:
        raise DataError(f"{path}: {name} has {got:g} numbers a row where data.horizons has {width}")
    widths = _lengths(frame[name])
    if widths is not None and len(set(widths.tolist())) > 1:
        raise DataError(f"{path}: rows of {name} differ in length")
    return flat.reshape(len(frame), int(got))


def _lengths(column: pl.Series) -> NDArray[np.int64] | None:
    if isinstance(column.dtype, pl.List):
        return column.list.len().fill_null(0).to_numpy()
    return None


def _asof(path: Path, frame: pl.DataFrame) -> NDArray[np.datetime64]:
    column = frame["asof"]
    try:
        if column.dtype == pl.String:
            column = column.str.to_datetime(time_unit="ms")
        if isinstance(column.dtype, pl.Datetime):
            column = column.dt.replace_time_zone(None)
        times = column.cast(pl.Datetime("ms"))
    except pl.exceptions.PolarsError:
        raise DataError(f"{path}: column asof does not hold dates") from None
    if times.null_count():
        raise DataError(f"{path}: column asof has {times.null_count()} rows without a date")
    return times.to_numpy().astype("datetime64[s]")


def _context_names(width: int) -> tuple[str, ...]:
    names = feature_names(FeatureSettings())
    return names if len(names) == width else tuple(f"context_{i}" for i in range(width))


def _findings(
    path: Path, windows: StoredWindows, up: NDArray[np.float64], dropped: int
) -> tuple[Finding, ...]:
    found = []
    if dropped:
        found.append(
            Finding("drop", "non-finite-input", path.name, "", "", dropped,
                    f"{dropped} rows with a missing or infinite input were left out", "write finite inputs")
        )  # fmt: skip
    counted = np.isfinite(windows.y_ret) & (windows.y_ret != 0)
    disagree = int((counted & (up != (windows.y_ret > 0))).any(1).sum())
    if disagree:
        found.append(
            Finding("warning", "y-up-disagrees", path.name, "", "", disagree,
                    f"y_up is not y_ret > 0 in {disagree} rows; y_ret is taken", "write y_up as y_ret > 0")
        )  # fmt: skip
    return tuple(found)
