"""The track record: what is recorded stays, and what came of it is scored by the bars since."""

import json
import multiprocessing
import os
import signal
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bars import write_bars
from waiting import wait_for

from stockenh.commands.track import record_of
from stockenh.data.bars import Bars
from stockenh.data.windows import index_windows
from stockenh.errors import DataError, RunFolderError
from stockenh.storage import ledger

START = np.datetime64("2024-01-01")
DAYS, HORIZON = 60, 5


def market(days, symbols=8, seed=0):
    """Bars of so many days, the first of a longer history."""
    rng = np.random.default_rng(seed)
    series = []
    for number in range(symbols):
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 400)))[:days]
        time = (START + np.arange(days)).astype("datetime64[s]")
        ohlcv = np.stack([close, close * 1.01, close * 0.99, close, np.full(days, 1e6)], 1)
        series.append((f"S{number}", time, ohlcv))
    return windows_of(Bars.from_series(series))


def windows_of(bars):
    return index_windows(bars, np.zeros((len(bars), 1), np.float32), ["zero"], [HORIZON], 1)


def rows_of(day, prob, symbols=8, sha="a" * 64, **more):
    """One day's forecasts as rows of a ledger."""
    count = len(prob)
    rows = {name: [None] * count for name in ledger.SCHEMA}
    rows |= {
        "recorded": [datetime(2024, 1, 1) + timedelta(days=int(day), hours=18)] * count,
        "run": ["run"] * count, "sha256": [sha] * count, "target": ["absolute"] * count,
        "relative": [False] * count, "symbol": [f"S{n}" for n in range(count)],
        "date": [datetime(2024, 1, 1) + timedelta(days=int(day))] * count, "horizon": [HORIZON] * count,
        "close": [100.0] * count, "ret": list(np.asarray(prob) - 0.5), "up_prob": list(prob),
        "score": list(np.asarray(prob) - 0.5), "ret_p10": [-0.03] * count, "ret_p90": [0.03] * count,
        "test_rank_ic": [0.9] * count, "test_rank_ic_low": [0.85] * count,
        "test_rank_ic_high": [0.95] * count, "test_accuracy": [0.9] * count,
        "test_accuracy_low": [0.85] * count,
        "test_accuracy_high": [0.95] * count, "test_log_loss": [0.3] * count, **more,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=ledger.SCHEMA)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.parquet"


def prices(windows):
    return windows.bars.ohlcv[:, 3].reshape(8, -1)


def test_sixty_days_that_arrive_one_by_one(path):
    future = prices(market(400))
    for day in range(DAYS):
        known = future[:, day + HORIZON] / future[:, day] - 1
        added, digest = ledger.append(path, rows_of(day, 0.5 + np.sign(known) * 0.2))
        assert added == 8 and len(digest) == 64
    frame = ledger.read(path)
    assert len(frame) == 8 * DAYS and ledger.first_changed(frame) is None
    for days, scored in ((HORIZON, 0), (DAYS, DAYS - HORIZON), (DAYS + HORIZON, DAYS)):
        found = record_of(frame, market(days), 0)["runs"][0]["horizons"][f"h{HORIZON}"]
        assert (found["realised"] or {"n": 0})["n"] == 8 * scored
    assert found["realised"]["accuracy"] == 1.0 and found["realised"]["rank_ic"] > 0.7
    assert found["realised"]["log_loss"] == pytest.approx(-np.log(0.7))
    assert {name for name, *_ in found["beyond_chance"]} >= {"log_loss"}
    assert list(found["by_month"]) == ["2024-01", "2024-02"]
    returns = future[:, HORIZON : DAYS + HORIZON] / future[:, :DAYS] - 1
    assert found["realised"]["coverage"] == pytest.approx(np.mean(np.abs(returns) <= 0.03))


def test_forecasts_without_skill_are_told_from_what_was_promised(path):
    rng = np.random.default_rng(1)
    for day in range(DAYS):
        ledger.append(path, rows_of(day, rng.uniform(0.3, 0.7, 8)))
    found = record_of(ledger.read(path), market(400), 0)["runs"][0]["horizons"][f"h{HORIZON}"]
    assert {name for name, *_ in found["beyond_chance"]} == {"rank_ic", "accuracy", "log_loss"}
    honest = {name: found["realised"].get(name) for name in ledger.PROMISES}
    rows = ledger.read(path).with_columns(pl.lit(v, pl.Float64).alias(f"test_{k}") for k, v in honest.items())
    assert record_of(rows, market(400), 0)["runs"][0]["horizons"][f"h{HORIZON}"]["beyond_chance"] == []


def test_the_first_forecast_stands(path):
    ledger.append(path, rows_of(0, [0.6] * 8))
    before = path.read_bytes()
    assert ledger.append(path, rows_of(0, [0.4] * 8))[0] == 0 and path.read_bytes() == before
    assert ledger.append(path, rows_of(0, [0.4] * 8, sha="b" * 64))[0] == 8  # of other weights


CHANGES = {
    "a probability": lambda f: f.with_columns(pl.when(pl.col("symbol") == "S1").then(0.9).otherwise("up_prob")
                                              .alias("up_prob")),
    "a date": lambda f: f.with_columns(pl.col("date") + timedelta(days=1)),
    "a row less": lambda f: f[1:],
    "a batch less": lambda f: f[8:],
    "another order": lambda f: f.reverse(),
    "a row twice": lambda f: pl.concat([f, f[-1:]]),
    "what was promised": lambda f: f.with_columns(pl.lit(0.01).alias("test_rank_ic")),
    "its own digest": lambda f: f.with_columns(pl.lit("0" * 64).alias("digest")),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_edited_by_hand_is_found(change, path, refused, here, bars_folder):
    for day in range(3):
        ledger.append(path, rows_of(day, [0.6] * 8, symbol=["AAA"] * 4 + ["BBB"] * 4))
    ledger.append(path, rows_of(4, [0.6] * 8))
    changed = CHANGES[change](ledger.read(path))
    changed.write_parquet(path)
    assert "not as written" in ledger.first_changed(ledger.read(path))
    with pytest.raises(RunFolderError, match="Nothing is added"):
        ledger.append(path, rows_of(9, [0.6] * 8))


def write(path, first, count):
    for day in range(first, first + count):
        ledger.append(path, rows_of(day, [0.6] * 8))


def test_two_writers_at_once_lose_nothing(path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(path, 100 * n, 15)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    frame = ledger.read(path)
    assert len(frame) == 2 * 15 * 8 and ledger.first_changed(frame) is None


def test_a_killed_writer_leaves_a_whole_file(path):
    ledger.append(path, rows_of(0, [0.6] * 8))
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, 1, 10_000))
    writer.start()
    wait_for(lambda: len(ledger.read(path)) >= 5 * 8)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    frame = ledger.read(path)
    assert ledger.first_changed(frame) is None
    assert ledger.append(path, rows_of(20_000, [0.6] * 8))[0] == 8
    assert ledger.first_changed(ledger.read(path)) is None


def test_a_split_in_the_bars_since_changes_no_return(path):
    for day in range(20):
        ledger.append(path, rows_of(day, [0.6] * 8, close=prices(market(400))[:, day].tolist()))
    frame, plain = ledger.read(path), market(60)
    before = record_of(frame, plain, 0)
    assert before["adjusted"] == [] and before["pending"] == 0
    halved = plain.bars.ohlcv.copy()
    halved[:60, :4] /= 2  # the provider adjusts all of one symbol's history
    bars = plain.bars
    adjusted = windows_of(Bars(bars.symbols, bars.offsets, bars.time, halved))
    after = record_of(frame, adjusted, 0)
    assert after["adjusted"] == ["S0"]
    of = [found["runs"][0]["horizons"][f"h{HORIZON}"]["realised"] for found in (before, after)]
    assert of[0] == pytest.approx(of[1])
    raw = bars.ohlcv.copy()
    raw[22:60, :4] /= 2  # a split that nobody adjusted, three bars after the last forecast
    split = record_of(frame, windows_of(Bars(bars.symbols, bars.offsets, bars.time, raw)), 0)
    assert split["pending"] == 3  # the forecasts of bars 17, 18 and 19 span it


def test_bars_of_other_symbols_are_refused(path):
    ledger.append(path, rows_of(0, [0.6] * 8, symbol=["X"] * 8))
    with pytest.raises(DataError, match="none of the 1 symbols"):
        record_of(ledger.read(path), market(60), 0)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n"])
def test_a_file_that_is_no_ledger_is_refused(content, path, refused, here, bars_folder):
    path.write_bytes(content)
    assert "is no ledger" in refused("track", f"ledger={path}", "data=files", f"data.path={bars_folder}")
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(RunFolderError, match="columns"):
        ledger.append(path, rows_of(0, [0.6] * 8))


@pytest.mark.parametrize(("name", "message"), [("bars", "bars is a folder"), ("notes.txt", "is no ledger")])
def test_what_is_no_ledger_is_refused_before_the_forecast(finished_run, stockenh, here, name, message):
    Path("bars").mkdir()
    Path("notes.txt").write_text("mine")
    answer = stockenh("tta-predict", f"run={finished_run}", f"ledger={name}", "hydra.run.dir=a", code=2)
    assert message in answer.err and answer.out == "" and len(answer.err.splitlines()) == 1
    assert sorted(path.name for path in Path().iterdir()) == ["bars", "notes.txt"]


def test_from_forecast_to_track_record(finished_run, stockenh, refused, here, bars_folder):
    """The run's own bars, then twelve more."""
    stockenh(
        "tta-predict", f"run={finished_run}", "ledger=led.parquet", "tta.views=0", "hydra.run.dir=a", code=0
    )
    again = stockenh("tta-predict", f"run={finished_run}", "ledger=led.parquet", "tta.views=0",
                     "hydra.run.dir=b", code=0)  # fmt: skip
    assert "0 forecasts added" in again.out and "6 recorded before" in again.out
    pending = stockenh("track", "ledger=led.parquet", "data=files", f"data.path={bars_folder}",
                       "hydra.run.dir=t0", code=0)  # fmt: skip
    assert "6 forecasts: too few bars since" in pending.out
    for number, symbol in enumerate(("AAA", "BBB")):
        (here / "more").mkdir(exist_ok=True)
        write_bars(here / "more" / f"{symbol}.csv", seed=number, bars=172)
    scored = stockenh(
        "track", "ledger=led.parquet", "data=files", "data.path=more", "hydra.run.dir=t1", code=0
    )
    assert "Track record of" in scored.out
    found = json.loads((here / "t1" / "track.json").read_text())
    promised = json.loads((finished_run / "summary.json").read_text())["parts"]["test"]["h3"]
    record = found["runs"][0]["horizons"]["h3"]
    assert record["realised"]["n"] == 2
    assert record["promised"]["log_loss"] == pytest.approx(promised["log_loss_calibrated"])
    assert (here / "t1" / "report.html").exists()
    assert "tta.from" in refused(
        "tta-predict", f"run={finished_run}", "ledger=led.parquet", "tta.from=2020-01-01"
    )
    frame = ledger.read(here / "led.parquet").with_columns(pl.lit(0.5).alias("up_prob"))
    frame.write_parquet(here / "led.parquet")
    answer = stockenh(
        "track", "ledger=led.parquet", "data=files", "data.path=more", "hydra.run.dir=t2", code=2
    )
    assert "not as written" in answer.err
