"""A run folder of version 0.1, kept as it was made, still loads, forecasts and resumes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stockenh.config.schema import config_of
from stockenh.storage.run_folder import RunFolder

pytestmark = pytest.mark.slow
KEPT = Path(__file__).with_name("run_of_version_0_1.tar.xz")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    with tarfile.open(KEPT) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_its_config_is_read_with_the_classes_of_today(run):
    assert "stockenh.training.schedule.Constant" in (run / "config.yaml").read_text()
    config = config_of(RunFolder(run))
    assert (config.data.symbols, config.train.epochs, config.tta.views) == (2, 1, 4)
    assert type(config.schedule).__name__ == "Constant"


@pytest.mark.parametrize(
    "arguments",
    [
        ["tta-predict", "run=run", "weights=ema"],
        ["evaluate", "run=run", "evaluate.resamples=100", "evaluate.block=10"],
        pytest.param(["export", "run=run"], marks=pytest.mark.deep),
        ["audit", "run=run", "audit.windows=64", "audit.shuffles=2", "audit.dates=1"],
        ["distill", "teacher=run", "train.epochs=1"],
        ["train", "init_from=run", "data=synthetic_small", "data.lookback=20", "embedding=none",
         "train.epochs=1", "model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8",
         "model.head_hidden=8", "model.bar_returns=false"],
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_commands_take_it(stockenh, run, arguments):
    answer = stockenh(*arguments)
    assert answer.code == 0, answer.err


def test_it_resumes_from_its_checkpoint(stockenh, run):
    before = load_file(run / "weights/raw.safetensors")
    answer = stockenh("train", "resume=run", "train.epochs=2")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert before.keys() == load_file(run / "weights/raw.safetensors").keys()
