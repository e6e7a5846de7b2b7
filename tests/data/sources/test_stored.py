import datetime as dt

import numpy as np
import polars as pl
import pytest
import torch

from stockenh.data.batches import DeviceWindows
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted
from stockenh.data.prices import NoAugment
from stockenh.data.sources.windows_file import WindowsData, read_windows
from stockenh.data.splits import TEST, TRAIN, VAL, DateSplit
from stockenh.errors import DataError

HORIZONS = (3, 5, 10)
N = 8
RNG = np.random.default_rng(0)
PRICE = RNG.uniform(-1, 1, (200, 120, 5)).astype(np.float32)
KRONOS = RNG.normal(size=(200, 512)).astype(np.float32)
CONTEXT = RNG.normal(size=(200, 29)).astype(np.float32)
RETURNS = RNG.normal(0, 0.03, (200, 3)).astype(np.float32)


def samples(n=N):
    """n ready samples of A and B on n / 2 consecutive days, nested as the notebooks write them."""
    columns = {
        "symbol": ["A", "B"] * (n // 2),
        "asof": [dt.date(2024, 1, 1) + dt.timedelta(days=i // 2) for i in range(n)],
    }
    arrays = {"ohlcv_norm": PRICE, "kronos_emb": KRONOS, "context": CONTEXT, "y_ret": RETURNS}
    columns |= {name: array[:n].tolist() for name, array in arrays.items()}
    return pl.DataFrame({**columns, "y_up": (RETURNS[:n] > 0).astype(int).tolist()})


def put(frame, column, values, dtype=None):
    return frame.with_columns(pl.Series(column, values, dtype=dtype))


def changed(frame, column, row, value):
    values = frame[column].to_list()
    values[row] = value
    return frame.with_columns(pl.Series(column, values, dtype=frame[column].dtype))


def read(path, frame):
    frame.write_parquet(path / "windows.parquet")
    windows, findings = read_windows(path / "windows.parquet", HORIZONS)
    assert all(finding.file == "windows.parquet" and finding.fix for finding in findings)
    return windows, [(finding.level, finding.rule, finding.rows) for finding in findings]


def layouts():
    frame = samples()
    flat = PRICE[:N].reshape(N, 600).tolist()
    return {
        "nested": frame,
        "flat": put(frame, "ohlcv_norm", flat),
        "array": put(frame, "ohlcv_norm", PRICE[:N].tolist(), pl.Array(pl.Float32, (120, 5))),
        "flat array": put(frame, "ohlcv_norm", flat, pl.Array(pl.Float64, 600)),
        "more columns": frame.with_columns(pl.lit("x").alias("note")),
        "text dates": frame.with_columns(pl.col("asof").cast(pl.String)),
        "nanoseconds": frame.with_columns(pl.col("asof").cast(pl.Datetime("ns"))),
        "time zone": frame.with_columns(pl.col("asof").cast(pl.Datetime("us", "UTC"))),
        "categories": frame.with_columns(pl.col("symbol").cast(pl.Categorical)),
        "true and false": put(frame, "y_up", (RETURNS[:N] > 0).tolist()),
    }


@pytest.mark.parametrize("layout", layouts())
def test_every_layout_reads_as_the_same_windows(tmp_path, layout):
    windows, findings = read(tmp_path, layouts()[layout])
    assert findings == [] and windows.context_names[0] == "align_1d"
    assert (windows.symbols, windows.symbol.tolist()) == (("A", "B"), [0, 1] * 4)
    assert windows.asof.astype(str).tolist()[::2] == [f"2024-01-0{d}T00:00:00" for d in (1, 2, 3, 4)]
    assert (windows.lookback, windows.horizons) == (120, HORIZONS)
    np.testing.assert_array_equal(windows.ohlcv_norm, PRICE[:N])
    np.testing.assert_array_equal(windows.embedding, KRONOS[:N])
    np.testing.assert_array_equal(windows.context, CONTEXT[:N])
    np.testing.assert_array_equal(windows.y_ret, RETURNS[:N])


def test_ready_samples_split_and_become_batches(tmp_path):
    samples(200).write_parquet(tmp_path / "w.parquet")
    windows = WindowsData(path=str(tmp_path / "w.parquet")).load(DiskCache(None)).windows
    rows, picked = np.arange(200), [7, 3]
    parts = DateSplit(val=0.2, test=0.2).assign(windows.asof, lambda extra: windows.reach(rows, extra))
    # 100 days: 60, 20 and 20, of which the last 10 before each cut have labels that reach over it.
    assert [int((parts == part).sum()) for part in (TRAIN, VAL, TEST)] == [100, 20, 40]
    resident = DeviceWindows(windows, KRONOS, Fitted.fit(windows, rows[parts == TRAIN]), torch.device("cpu"))
    micro = resident.gather(torch.tensor(picked), NoAugment())
    np.testing.assert_array_equal(micro.x_price.numpy(), PRICE[picked])
    np.testing.assert_array_equal(micro.x_embedding.numpy(), KRONOS[picked])
    np.testing.assert_array_equal(micro.y_up.numpy(), RETURNS[picked] > 0)


def test_contradictions_are_findings_and_ties_or_other_columns_are_not(tmp_path):
    windows, _ = read(tmp_path, put(samples(), "context", CONTEXT[:N, :3].tolist()))
    assert windows.context_names == ("context_0", "context_1", "context_2")
    frame = changed(samples(), "y_up", 4, (RETURNS[4] <= 0).astype(int).tolist())
    frame = changed(changed(frame, "y_ret", 6, [0.0, 0.0, 0.0]), "y_up", 6, [1, 0, None])
    frame = changed(frame, "ohlcv_norm", 2, (PRICE[2] * 100).tolist())
    assert read(tmp_path, pl.concat([frame, frame[:1]]))[1] == [
        ("warning", "y-up-disagrees", 1), ("warning", "not-normalised", 1), ("warning", "duplicate-row", 1),
    ]  # fmt: skip


def test_a_missing_return_is_a_missing_label_and_a_missing_input_costs_its_row(tmp_path):
    frame = changed(changed(samples(), "y_ret", 1, [None, 0.5, float("inf")]), "y_up", 1, [None, 1, 1])
    windows, findings = read(tmp_path, changed(changed(frame, "y_ret", 2, None), "y_up", 2, None))
    np.testing.assert_array_equal(windows.y_ret[1], np.array([np.nan, 0.5, np.nan], np.float32))
    assert windows.labelled.tolist() == [True, True, False, True, True, True, True, True]
    assert findings == [("warning", "infinite-label", 1)]
    frame = changed(samples(), "context", 0, [None] + [0.0] * 28)
    frame = changed(frame, "kronos_emb", 3, None)
    frame = changed(frame, "ohlcv_norm", 5, [[float("inf")] * 5] * 120)
    windows, findings = read(tmp_path, frame)
    assert findings == [("drop", "non-finite-input", 3)]
    np.testing.assert_array_equal(windows.embedding, KRONOS[[1, 2, 4, 6, 7]])
    assert windows.symbol.tolist() == [1, 0, 0, 0, 1]


NONE = pl.List(pl.Float32)
BAD = {
    "missing columns": (lambda f: f.drop("context", "y_up"), "lacks .* context, y_up; it has symbol, asof"),
    "no rows": (lambda f: f.clear(), "has no rows"),
    "two labels": (
        lambda f: put(f, "y_ret", RETURNS[:N, :2].tolist()), r"y_ret has 2 .*data\.horizons has 3",
    ),
    "four directions": (lambda f: put(f, "y_up", [[0, 1, 0, 1]] * N), r"y_up has 4 .*data\.horizons has 3"),
    "odd width": (
        lambda f: put(f, "ohlcv_norm", PRICE[:N].reshape(N, 600)[:, :599].tolist()), "has 599 numbers a row",
    ),
    "transposed": (
        lambda f: put(f, "ohlcv_norm", PRICE[:N].transpose(0, 2, 1).tolist()), "is 5 x 120 a row",
    ),
    "ragged rows": (lambda f: changed(f, "context", 2, [0.0] * 28), "rows of context differ in length"),
    "ragged bars": (
        lambda f: changed(f, "ohlcv_norm", 1, [[0.0] * 4, [0.0] * 6] * 60), "ohlcv_norm differ in length",
    ),
    "a null bar": (lambda f: changed(f, "ohlcv_norm", 1, [None] * 120), "ohlcv_norm differ in length"),
    "empty lists": (lambda f: put(f, "kronos_emb", [[]] * N, NONE), "rows of kronos_emb are empty lists"),
    "text": (lambda f: put(f, "context", [["1.5"] * 29] * N), "context does not hold lists of numbers"),
    "all null": (lambda f: put(f, "context", [[None] * 29] * N, NONE), "every row has a missing"),
    "nameless": (lambda f: changed(f, "symbol", 3, None), "column symbol has 1 rows without a name"),
    "names in lists": (lambda f: put(f, "symbol", [["A"]] * N), "column symbol does not hold names"),
    "undated": (lambda f: changed(f, "asof", 3, None), "column asof has 1 rows without a date"),
    "numbered dates": (lambda f: put(f, "asof", list(range(N))), "column asof does not hold dates but Int64"),
    "no dates": (lambda f: put(f, "asof", ["soon"] * N), "column asof does not hold dates"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_refused_in_one_clear_line(tmp_path, case):
    spoil, message = BAD[case]
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, spoil(samples()))
    assert str(error.value).startswith(f"{tmp_path / 'windows.parquet'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"symbol,asof\nA,2024-01-01\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "w.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"^.* is not a readable Parquet file.*$"):
        read_windows(tmp_path / "w.parquet", HORIZONS)


def test_a_path_that_is_not_there_names_the_key(tmp_path):
    for path in (tmp_path / "none.parquet", tmp_path):
        with pytest.raises(DataError, match=r"no such file; data=windows needs data\.path=FILE"):
            WindowsData(path=str(path)).load(DiskCache(None))
