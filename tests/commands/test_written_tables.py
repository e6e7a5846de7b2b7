"""Tables that commands write: Parquet as it is, CSV with nothing that a spreadsheet executes."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl
import pytest
from bars import write_bars

from stockenh.commands.frames import write_frame

FULL_WIDTH = "\uff1d1"
DANGEROUS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "=cmd|' /C calc'!A0",
    '="a","b"',
    FULL_WIDTH,
]
HARMLESS = ["AAPL", "^GSPC", "BRK-B", "a=1", "'=1", "", " ", "5", "é@"]


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("kind", [pl.String, pl.Categorical, pl.Enum])
def test_text_that_begins_like_a_formula_gets_an_apostrophe_in_csv_alone(tmp_path, kind):
    texts = [*DANGEROUS, *HARMLESS]
    column = pl.Series(texts, dtype=kind(texts) if kind is pl.Enum else kind)
    frame = pl.DataFrame({"symbol": column, "=ret": [-1.5] * len(texts), "n": [-1] * len(texts)})
    write_frame(frame, tmp_path / "table")
    header, *rows = rows_of(tmp_path / "table.csv")
    assert header == ["symbol", "'=ret", "n"]
    assert [row[0] for row in rows] == [f"'{text}" for text in DANGEROUS] + HARMLESS
    assert {tuple(row[1:]) for row in rows} == {("-1.5", "-1")}
    raw = pl.read_parquet(tmp_path / "table.parquet")
    assert raw["symbol"].cast(pl.String).to_list() == texts and raw.columns == frame.columns


def test_a_forecast_of_a_symbol_that_is_a_formula(finished_run, stockenh, here):
    write_bars(here / "a.csv", seed=1)
    frame = pl.read_csv(here / "a.csv")
    (here / "bars").mkdir()
    frame.with_columns(symbol=pl.lit("=1+1")).write_csv(here / "bars" / "all.csv")
    stockenh(
        "tta-predict", f"run={finished_run}", "data=files", "data.path=bars", "hydra.run.dir=out", code=0
    )
    assert {row[0] for row in rows_of(here / "out/forecast.csv")[1:]} == {"'=1+1"}
    assert set(pl.read_parquet(here / "out/forecast.parquet")["symbol"]) == {"=1+1"}
