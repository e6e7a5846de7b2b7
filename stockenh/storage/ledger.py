"""A record of forecasts that grows only: a Parquet file whose rows are chained by hashes.

Rows are added in batches. Each batch has the digest of all that stand before it and one of itself, so that a
row that was changed, removed or put in between later is found. Somebody who rewrites the whole file can
make a new chain; the digest of the last batch, noted elsewhere, shows that.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import polars as pl
from filelock import FileLock, Timeout

from stockenh.errors import RunFolderError
from stockenh.storage.files import write_atomic
from stockenh.storage.untrusted import is_file, read_bytes

PROMISES = ("rank_ic", "rank_ic_low", "rank_ic_high", "accuracy", "accuracy_low", "accuracy_high", "log_loss")
SCHEMA: dict[str, pl.DataType] = {
    "recorded": pl.Datetime("us"),  # UTC, when the forecast was written
    "run": pl.String(),
    "sha256": pl.String(),  # of the weights
    "target": pl.String(),
    "relative": pl.Boolean(),  # up is above the median of the day
    "symbol": pl.String(),
    "date": pl.Datetime("us"),  # of the last bar that the forecast saw
    "horizon": pl.Int64(),  # bars ahead
    "close": pl.Float64(),  # of that bar, as it was then
    "ret": pl.Float64(),
    "up_prob": pl.Float64(),
    "score": pl.Float64(),
    "ret_p10": pl.Float64(),
    "ret_p90": pl.Float64(),
    # what the run's own test part promised
    **{f"test_{name}": pl.Float64() for name in PROMISES},
}
CHAIN: dict[str, pl.DataType] = {"previous": pl.String(), "digest": pl.String()}
ONE_FORECAST = ("sha256", "symbol", "date", "horizon")
LATE_DAYS = 10  # after its bar a forecast may have been made with hindsight
MOST_ROWS = 20_000_000  # three horizons of 500 symbols for fifty years
MOST_BYTES = 2**30
LOCK_SECONDS = 60.0


def append(path: Path, rows: pl.DataFrame) -> tuple[int, str]:
    """Adds forecasts that are not there yet; returns how many were added, and the digest of the whole.

    rows: with the columns of `SCHEMA`. The first forecast of the same weights, symbol, date and horizon
    stands. Another process that writes is waited for. Raises RunFolderError where the file is no ledger or
    was changed, DiskError where it can't be written; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
            before = read(path) if path.exists() or path.is_symlink() else _empty()
            if changed := first_changed(before):
                raise RunFolderError(f"{path}: {changed}. Nothing is added to it: keep it, name another file")
            fresh = rows.select([pl.col(name).cast(kind) for name, kind in SCHEMA.items()])
            fresh = fresh.unique(ONE_FORECAST, keep="first", maintain_order=True)
            fresh = fresh.join(before, on=ONE_FORECAST, how="anti", maintain_order="left")
            last = "" if before.is_empty() else str(before["digest"][-1])
            if fresh.is_empty():
                return 0, last
            digest = digest_of(fresh, last)
            chained = fresh.with_columns(pl.lit(last).alias("previous"), pl.lit(digest).alias("digest"))
            content = io.BytesIO()
            pl.concat([before, chained]).write_parquet(content)
            write_atomic(path, content.getbuffer())
            return len(fresh), digest
    except Timeout:
        raise RunFolderError(f"{path}: another process has been writing for {LOCK_SECONDS:.0f} s") from None


def read(path: Path) -> pl.DataFrame:
    """All rows. Raises RunFolderError where the file is missing, a link, or no ledger."""
    if path.is_dir():
        raise RunFolderError(f"{path} is a folder: write ledger=FILE")
    if not is_file(path):
        raise RunFolderError(f"{path}: no such ledger; stockenh tta-predict run=RUN ledger={path} starts one")
    content = read_bytes(path, MOST_BYTES)
    try:
        lazy = pl.scan_parquet(io.BytesIO(content))
        # before anything is unpacked
        if dict(lazy.collect_schema()) != {**SCHEMA, **CHAIN}:
            raise RunFolderError(f"{path} is no ledger: its columns are others")
        if (rows := lazy.select(pl.len()).collect().item()) > MOST_ROWS:
            raise RunFolderError(f"{path} has {rows:,} rows, more than the {MOST_ROWS:,} allowed here")
        return lazy.collect()
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise RunFolderError(f"{path} is no ledger: {error}") from None


def first_changed(frame: pl.DataFrame) -> str | None:
    """Where the chain is broken, in words; None where every batch is as it was written."""
    last, begin = "", 0
    digests = frame["digest"].to_list()
    while begin < len(frame):
        end = begin + 1
        while end < len(frame) and digests[end] == digests[begin]:
            end += 1
        batch = frame[begin:end]
        if batch["previous"].to_list() != [last] * len(batch) or digest_of(batch, last) != digests[begin]:
            when = str(batch["recorded"][0])[:16]
            return f"rows {begin + 1} to {end}, recorded {when}, are not as written, or some are missing"
        last, begin = digests[begin], end
    return None


def digest_of(batch: pl.DataFrame, previous: str) -> str:
    """SHA-256 of a batch and all before it."""
    found = hashlib.sha256(previous.encode())
    for name, kind in SCHEMA.items():
        column = batch[name]
        found.update(f"\0{name}\0{len(column)}\0".encode())
        if kind == pl.String() or kind == pl.Boolean():
            found.update(json.dumps(column.to_list()).encode())
        else:
            found.update(json.dumps(column.is_null().to_list()).encode())
            if kind == pl.Float64():
                content = column.fill_null(0.0).to_numpy().astype("<f8").tobytes()
            else:
                content = column.cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes()
            found.update(content)
    return found.hexdigest()


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema={**SCHEMA, **CHAIN})
