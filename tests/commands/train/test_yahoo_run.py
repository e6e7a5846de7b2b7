"""A run on downloaded bars, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from yahoo_frames import LIMITED, Answering, days, prices, yahoo

__all__ = ["yahoo"]  # a fixture

DATES = days("2020-01-01", 160)


@pytest.fixture
def overrides(small_run: list[str], tmp_path: Path) -> list[str]:
    own = [a for a in small_run if not a.startswith(("data=", "data.path="))]
    return ["data=yahoo", "data.symbols=[AAPL,GONE]", *own, f"cache_dir={tmp_path / 'cache'}"]


def test_a_run_names_its_download_and_goes_on_from_it(
    stockenh: Callable[..., object], yahoo: Answering, overrides: list[str], tmp_path: Path
) -> None:
    client = yahoo(AAPL=prices(DATES))
    run = tmp_path / "run"
    answer = stockenh("train", *overrides, "data.refresh=true", f"hydra.run.dir={run}")
    assert answer.code == 0, answer.err
    assert "yahoo    AAPL, GONE as downloaded" in answer.err
    assert "1 file: left out (not-at-yahoo 1)" in answer.out
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert data["refresh"] is False and len(data["downloaded"]) == len("2024-03-08T120000Z")
    yahoo(AAPL=LIMITED)  # whoever asks now is refused
    answer = stockenh("train", f"resume={run}", "train.epochs=2")
    assert answer.code == 0, answer.err
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    assert client.tickers == ["AAPL", "GONE"]
    forecast = ["tta-predict", f"run={run}", f"cache_dir={tmp_path / 'cache'}"]
    answer = stockenh(*forecast, f"hydra.run.dir={tmp_path / 'forecast'}")
    assert answer.code == 0 and DATES[-1] in answer.out
    answer = stockenh(*forecast, "data.refresh=true", f"hydra.run.dir={tmp_path / 'newer'}")
    assert answer.code == 1 and "rate limit" in answer.err


def test_on_a_machine_without_the_download_a_copy_takes_its_place(
    stockenh: Callable[..., object], yahoo: Answering, overrides: list[str], tmp_path: Path
) -> None:
    yahoo(AAPL=prices(DATES))
    run = tmp_path / "run"
    assert stockenh("train", *overrides, f"hydra.run.dir={run}").code == 0
    (file,) = (tmp_path / "cache/yahoo").glob("*/*.parquet")
    copy, other = tmp_path / "copy.parquet", tmp_path / "other.parquet"
    file.rename(copy)
    answer = stockenh("train", f"resume={run}", "train.epochs=2")
    assert answer.code == 2 and "not in this cache" in answer.err and "data.path=FILE" in answer.err
    other.write_bytes(copy.read_bytes()[:-10])
    answer = stockenh("train", f"resume={run}", "train.epochs=2", f"data.path={other}")
    assert answer.code == 2 and "no usable bars" in answer.err
    answer = stockenh("train", f"resume={run}", "train.epochs=2", f"data.path={copy}")
    assert answer.code == 0, answer.err
