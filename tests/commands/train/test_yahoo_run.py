"""A run on downloaded bars, from the command line."""

import json
from pathlib import Path

import pytest
import yaml
from yahoo_frames import LIMITED, days, prices, yahoo

__all__ = ["yahoo"]  # a fixture

DATES = days("2020-01-01", 160)


@pytest.fixture
def train(small_run, stockenh, here):
    """Trains on two symbols of which Yahoo has one."""
    own = [a for a in small_run if not a.startswith(("data=", "data.path="))]
    recipe = ["data=yahoo", "data.symbols=[AAPL,GONE]", *own, "cache_dir=cache", "hydra.run.dir=run"]
    return lambda *more: stockenh("train", *recipe, *more, code=0)


def test_a_run_names_its_download_and_goes_on_from_it(stockenh, train, yahoo):
    client = yahoo(AAPL=prices(DATES))
    answer = train("data.refresh=true")
    assert "yahoo    AAPL, GONE as downloaded" in answer.err
    assert "1 file: left out (not-at-yahoo 1)" in answer.out
    data = yaml.safe_load(Path("run/config.yaml").read_text())["data"]
    assert data["refresh"] is False and len(data["downloaded"]) == len("2024-03-08T120000Z")
    yahoo(AAPL=LIMITED)  # every further request is refused
    stockenh("train", "resume=run", "train.epochs=2", "cache_dir=cache", code=0)
    assert json.loads(Path("run/summary.json").read_text())["epochs"] == 2
    assert client.tickers == ["AAPL", "GONE"]
    forecast = ["tta-predict", "run=run", "cache_dir=cache"]
    assert DATES[-1] in stockenh(*forecast, "hydra.run.dir=forecast", code=0).out
    answer = stockenh(*forecast, "data.refresh=true", "hydra.run.dir=newer", code=1)
    assert "rate limit" in answer.err


def test_on_a_machine_without_the_download_a_copy_takes_its_place(stockenh, train, yahoo):
    yahoo(AAPL=prices(DATES))
    train()
    (file,) = Path("cache/yahoo").glob("*/*.parquet")
    copy = file.rename("copy.parquet")
    Path("cut.parquet").write_bytes(copy.read_bytes()[:-10])
    resume = ["train", "resume=run", "train.epochs=2"]
    err = stockenh(*resume, code=2).err
    assert "not in this cache" in err and "data.path=FILE" in err
    assert "no usable bars" in stockenh(*resume, "data.path=cut.parquet", code=2).err
    stockenh(*resume, "data.path=copy.parquet", code=0)
