"""Runs on a Kronos embedding: what they write down, what they warn of, and what a moved one needs."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import processes
import pytest
import torch
import yaml
from kronos_checkpoints import TINY, copy_tiny
from safetensors.torch import load_file, save_file

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import TtaPredictConfig, parse, plain
from stockenh.embedding.kronos import KronosEmbedding
from stockenh.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kronos_run(small_run):
    """Overrides of a small run on the tiny checkpoint."""
    return [*(word for word in small_run if not word.startswith("embedding.width")), "embedding=kronos"]


@pytest.fixture(scope="module")
def place(kronos_run, tmp_path_factory):
    """A folder with a checkpoint in `weights` and in `run` a finished run on it, trained from that folder."""
    place = tmp_path_factory.mktemp("kronos")
    copy_tiny(place / "weights")
    done = processes.run("train", *kronos_run, "embedding.checkpoint=weights", "hydra.run.dir=run", cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "out.txt").write_text(done.stdout)
    return place


@pytest.fixture
def moved(place, tmp_path):
    """The run elsewhere, where its config names a folder of weights that is not there."""
    run = Path(shutil.copytree(place / "run", tmp_path / "moved" / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(place / "weights"), "/nowhere/weights"))
    return run


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def prepared(*overrides: str) -> build.Prepared:
    return build.data(parse(plain(compose(list(overrides)))), CPU)


def test_a_run_records_its_weights_and_warns_of_a_test_part_before_june_2024(place):
    run, weights = place / "run", place / "weights"
    summary, manifest = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "manifest"))
    assert manifest["embedding"] == {
        part: {
            "from": str(weights / part),
            "revision": None,
            "sha256": sha256(weights / part / "model.safetensors"),
        }
        for part in ("model", "tokenizer")
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    embedding = config["embedding"]
    assert embedding["checkpoint"] == str(weights)
    assert embedding["tokenizer"] == "NeoQuasar/Kronos-Tokenizer-base"
    assert embedding["precision"] == "fp32"  # what auto stands for here is kept
    (warning,) = summary["warnings"]
    assert manifest["warnings"] == [warning] and "before June 2024" in warning
    assert f"warning  {warning}" in (place / "out.txt").read_text()
    # the model's input is as wide as the checkpoint
    shapes = [tuple(tensor.shape) for tensor in load_file(run / "weights" / "raw.safetensors").values()]
    assert any(64 in shape for shape in shapes)
    assert build.data(parse(config), CPU).spec.embedding == 64


def test_the_warning_is_of_the_published_weights_or_of_one_s_own(place, small_run):
    before = np.datetime64("2024-01-31T00:00:00")
    (own,) = KronosEmbedding(checkpoint=str(place / "weights")).warnings(before)
    assert f"the weights in {place / 'weights' / 'model'} may have seen market data" in own
    (published,) = KronosEmbedding().warnings(before)
    assert "the published Kronos weights have seen market data up to February 2024" in published
    assert "unless" not in published
    market = ["data=synthetic", "data.symbols=1", "data.bars=200", "data.lookback=20", "data.horizons=[1,2]"]
    tiny = ["embedding=kronos", f"embedding.checkpoint={TINY}", "embedding.precision=fp32"]
    assert prepared(*small_run).warnings == prepared(*market, *tiny).warnings == ()


def test_a_model_that_does_not_fit_is_refused_before_weights_are_read(kronos_run, tmp_path):
    copy_tiny(tmp_path)
    for part in ("model", "tokenizer"):
        (tmp_path / part / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.d_model"):
        prepared(*kronos_run, f"embedding.checkpoint={tmp_path}", "model.d_model=15")


def test_a_moved_run_forecasts_and_resumes_with_the_weights_named_anew(place, moved, here, stockenh):
    given = ["device=cpu", "tta.views=0"]
    stockenh("tta-predict", f"run={place / 'run'}", *given, "hydra.run.dir=a", code=0)
    weights = shutil.copytree(place / "weights", here / "elsewhere")
    named = f"embedding.checkpoint={weights}"
    stockenh("tta-predict", f"run={moved}", *given, named, "hydra.run.dir=b", code=0)
    before, after = (pl.read_parquet(here / name / "forecast.parquet") for name in "ab")
    assert before.equals(after)
    assert "needs the model of" in stockenh("train", f"resume={moved}", "train.epochs=2", code=2).err
    stockenh("train", f"resume={moved}", "train.epochs=2", named, code=0)
    assert json.loads((moved / "summary.json").read_text())["epochs"] == 2


def test_a_moved_run_without_its_weights_or_with_others_is_refused(place, moved, here, stockenh, refused):
    err = refused("tta-predict", f"run={moved}", "device=cpu", "hydra.run.dir=out")
    known = sha256(place / "weights" / "model" / "model.safetensors")
    for words in (
        "embedding.checkpoint=/nowhere/weights: no such folder",
        f"the model of {place / 'weights' / 'model'} (sha256 {known[:16]}...)",
        "name their folder with embedding.checkpoint=DIR",
    ):
        assert words in err
    other = copy_tiny(here / "other")
    tensors = load_file(other / "model" / "model.safetensors")
    tensors["norm.weight"] *= 2
    save_file(tensors, str(other / "model" / "model.safetensors"))
    for given, message in (
        (f"embedding.checkpoint={other}", "the embedding's weights are not those of"),
        ("embedding.precision=bf16", "embedding can't be other than that of run="),
    ):
        arguments = (f"run={place / 'run'}", given, "device=cpu", "hydra.run.dir=out")
        assert message in stockenh("tta-predict", *arguments, code=2).err


def test_with_without_and_shuffled_are_three_choices(kronos_run):
    tiny = [*kronos_run, f"embedding.checkpoint={TINY}"]
    true, shuffled = prepared(*tiny).embedding, prepared(*tiny, "embedding=kronos_shuffled").embedding
    switched = prepared(*tiny, "embedding.shuffle=true").embedding
    assert switched.tolist() == shuffled.tolist()
    assert set(map(tuple, shuffled.tolist())) <= set(map(tuple, true.tolist()))
    assert (true != shuffled).any(1).mean() > 0.9
    assert prepared(*tiny, "embedding=kronos_shuffled", "seed=1").embedding.tolist() != shuffled.tolist()
    assert prepared(*kronos_run, "embedding=none").spec.embedding == 0


def test_a_forecast_of_a_shuffled_run_draws_from_all_that_has_ended(kronos_run):
    tiny = [*kronos_run, f"embedding.checkpoint={TINY}"]
    true, shuffled = (
        build.to_forecast(parse(plain(compose([*tiny, *more])), TtaPredictConfig), CPU)[0]
        for more in ([], ["embedding.shuffle=true"])
    )
    assert len(shuffled.embedding) == len(true.embedding) == 2
    assert (shuffled.embedding != true.embedding).any(1).all()
    np.testing.assert_array_equal(shuffled.windows.asof, true.windows.asof)


def test_ready_windows_have_no_bars_to_embed(here, stockenh):
    data = ["data=windows", "data.path=w.parquet", "embedding=kronos"]
    err = stockenh("train", *data, "hydra.run.dir=run", code=2).err
    assert "needs raw bars, and data=windows has none: take embedding=stored or none" in err


def test_offline_without_the_client_is_one_line(kronos_run, here, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    err = refused("train", *kronos_run, "hydra.run.dir=run")
    assert err.startswith("stockenh: embedding.checkpoint=NeoQuasar/Kronos-small is a Hub id")
    assert "stockenh[kronos]" in err
