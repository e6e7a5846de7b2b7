"""Runs on a Kronos embedding: what they write down, what they warn of, and what a moved one needs."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
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
from stockenh.config.schema import parse, plain
from stockenh.embedding.kronos import KronosEmbedding
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
Stockenh = Callable[..., object]


@pytest.fixture(scope="module")
def kronos_run(small_run: list[str]) -> list[str]:
    """Overrides of a small run on the tiny checkpoint."""
    without_width = [override for override in small_run if not override.startswith("embedding.width")]
    return [*without_width, "embedding=kronos"]


@pytest.fixture(scope="module")
def place(kronos_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in `weights` and in `run` a finished run on it, trained from that folder."""
    place = tmp_path_factory.mktemp("kronos")
    copy_tiny(place / "weights")
    arguments = [*kronos_run, "embedding.checkpoint=weights", f"hydra.run.dir={place / 'run'}"]
    done = processes.run("train", *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "said.txt").write_text(done.stdout)
    return place


@pytest.fixture
def moved(place: Path, tmp_path: Path) -> Path:
    """The run elsewhere, where its config names a folder of weights that is not there."""
    run = Path(shutil.copytree(place / "run", tmp_path / "moved" / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(place / "weights"), "/nowhere/weights"))
    return run


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_manifest_says_which_weights_the_run_has(place: Path) -> None:
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert manifest["embedding"] == {
        part: {
            "from": str(place / "weights" / part),
            "revision": None,
            "sha256": sha256(place / "weights" / part / "model.safetensors"),
        }
        for part in ("model", "tokenizer")
    }
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())["embedding"]
    assert config["checkpoint"] == str(place / "weights")
    assert config["tokenizer"] == "NeoQuasar/Kronos-Tokenizer-base"
    assert config["precision"] == "fp32"  # what auto stands for here is kept


def test_a_test_part_before_june_2024_is_warned_of_everywhere(place: Path) -> None:
    summary, manifest = (
        json.loads((place / "run" / f"{f}.json").read_text()) for f in ("summary", "manifest")
    )
    assert len(summary["warnings"]) == 1
    assert summary["warnings"] == manifest["warnings"]
    assert "before June 2024" in summary["warnings"][0]
    assert f"warning  {summary['warnings'][0]}" in (place / "said.txt").read_text()


def test_weights_of_one_s_own_only_may_have_seen_it(place: Path) -> None:
    before = np.datetime64("2024-01-31T00:00:00")
    (own,) = KronosEmbedding(checkpoint=str(place / "weights")).warnings(before)
    assert f"the weights in {place / 'weights' / 'model'} may have seen market data of that time" in own
    assert "unless you know that yours have not" in own
    (published,) = KronosEmbedding().warnings(before)
    assert "the published Kronos weights have seen market data up to February 2024: its scores" in published


def test_other_embeddings_have_nothing_to_warn_of(small_run: list[str]) -> None:
    assert build.data(parse(plain(compose(small_run))), CPU).warnings == ()


def test_the_model_s_input_is_as_wide_as_the_checkpoint(place: Path) -> None:
    shapes = {
        tuple(tensor.shape) for tensor in load_file(place / "run" / "weights" / "raw.safetensors").values()
    }
    assert any(64 in shape for shape in shapes)
    config = parse(yaml.safe_load((place / "run" / "config.yaml").read_text()))
    assert build.data(config, CPU).spec.embedding == 64


def test_a_model_that_does_not_fit_is_refused_before_weights_are_read(
    kronos_run: list[str], tmp_path: Path
) -> None:
    copy_tiny(tmp_path)
    for part in ("model", "tokenizer"):
        (tmp_path / part / "model.safetensors").unlink()
    wrong = [*kronos_run, f"embedding.checkpoint={tmp_path}", "model.d_model=15"]
    with pytest.raises(ConfigError, match=r"model\.d_model"):
        build.data(parse(plain(compose(wrong))), CPU)


def forecast(stockenh: Stockenh, into: Path, *arguments: str) -> pl.DataFrame:
    answer = stockenh("tta-predict", *arguments, "device=cpu", "tta.views=0", f"hydra.run.dir={into}")
    assert answer.code == 0, answer.err
    return pl.read_parquet(into / "forecast.parquet")


def test_a_moved_run_forecasts_the_same_with_the_weights_named_anew(
    place: Path, moved: Path, tmp_path: Path, stockenh: Stockenh
) -> None:
    before = forecast(stockenh, tmp_path / "a", f"run={place / 'run'}")
    weights = shutil.copytree(place / "weights", tmp_path / "elsewhere")
    after = forecast(stockenh, tmp_path / "b", f"run={moved}", f"embedding.checkpoint={weights}")
    assert before.equals(after)


def test_a_moved_run_without_its_weights_says_what_it_needs(
    place: Path, moved: Path, stockenh: Stockenh
) -> None:
    answer = stockenh("tta-predict", f"run={moved}", "device=cpu", f"hydra.run.dir={moved.parent / 'out'}")
    assert answer.code == 2
    assert "embedding.checkpoint=/nowhere/weights: no such folder" in answer.err
    known = sha256(place / "weights" / "model" / "model.safetensors")
    assert f"the model of {place / 'weights' / 'model'} (sha256 {known[:16]}...)" in answer.err
    assert "name their folder with embedding.checkpoint=DIR" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_other_weights_in_their_place_are_refused(place: Path, tmp_path: Path, stockenh: Stockenh) -> None:
    other = copy_tiny(tmp_path / "other")
    tensors = load_file(other / "model" / "model.safetensors")
    tensors["norm.weight"] *= 2
    save_file(tensors, str(other / "model" / "model.safetensors"))
    arguments = ["tta-predict", f"run={place / 'run'}", f"embedding.checkpoint={other}", "device=cpu"]
    answer = stockenh(*arguments, f"hydra.run.dir={tmp_path / 'out'}")
    assert answer.code == 2
    assert "the embedding's weights are not those of" in answer.err
    answer = stockenh(*arguments[:2], "embedding.precision=bf16", f"hydra.run.dir={tmp_path / 'out'}")
    assert answer.code == 2
    assert "embedding can't be other than that of run=" in answer.err


def test_a_moved_run_is_resumed_with_the_weights_named_anew(
    place: Path, moved: Path, tmp_path: Path, stockenh: Stockenh
) -> None:
    refused = stockenh("train", f"resume={moved}", "train.epochs=2")
    assert refused.code == 2
    assert "needs the model of" in refused.err
    answer = stockenh(
        "train", f"resume={moved}", "train.epochs=2", f"embedding.checkpoint={place / 'weights'}"
    )
    assert answer.code == 0, answer.err
    assert json.loads((moved / "summary.json").read_text())["epochs"] == 2


def test_with_without_and_shuffled_are_three_choices(kronos_run: list[str]) -> None:
    def inputs(*choice: str) -> build.Prepared:
        return build.data(parse(plain(compose([*kronos_run, f"embedding.checkpoint={TINY}", *choice]))), CPU)

    plain_one, shuffled = inputs(), inputs("embedding=kronos_shuffled")
    assert (
        inputs("embedding.shuffle=true", "embedding=kronos").embedding.tolist() == shuffled.embedding.tolist()
    )
    vectors = {tuple(row) for row in plain_one.embedding.tolist()}
    assert {tuple(row) for row in shuffled.embedding.tolist()} <= vectors
    assert (plain_one.embedding != shuffled.embedding).any(1).mean() > 0.9
    assert inputs("embedding=kronos_shuffled", "seed=1").embedding.tolist() != shuffled.embedding.tolist()
    without = [choice for choice in kronos_run if choice != "embedding=kronos"]
    assert build.data(parse(plain(compose([*without, "embedding=none"]))), CPU).spec.embedding == 0


def test_a_forecast_of_a_shuffled_run_draws_from_all_that_has_ended(kronos_run: list[str]) -> None:
    shuffled = [*kronos_run, f"embedding.checkpoint={TINY}", "embedding.shuffle=true"]
    prepared, _ = build.to_forecast(parse(plain(compose(shuffled))), CPU)
    true, _ = build.to_forecast(parse(plain(compose([*shuffled[:-1]]))), CPU)
    assert len(prepared.embedding) == len(true.embedding) == 2
    assert (prepared.embedding != true.embedding).any(1).all()
    np.testing.assert_array_equal(prepared.windows.asof, true.windows.asof)


def test_ready_windows_have_no_bars_to_embed(tmp_path: Path, stockenh: Stockenh) -> None:
    answer = stockenh(
        "train", "data=windows", f"data.path={tmp_path}/w.parquet", "embedding=kronos",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert answer.code == 2
    assert "needs raw bars, and data=windows has none: take embedding=stored or none" in answer.err


def test_offline_without_the_client_is_one_line(
    kronos_run: list[str], tmp_path: Path, stockenh: Stockenh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    answer = stockenh("train", *kronos_run, f"hydra.run.dir={tmp_path / 'run'}")
    assert answer.code == 2
    assert answer.err.startswith("stockenh: embedding.checkpoint=NeoQuasar/Kronos-small is a Hub id")
    assert "stockenh[kronos]" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_nobody_has_seen_the_future_of_a_generated_market() -> None:
    market = ["data=synthetic", "data.symbols=1", "data.bars=200", "data.lookback=20", "data.horizons=[1,2]"]
    given = [*market, "embedding=kronos", f"embedding.checkpoint={TINY}", "embedding.precision=fp32"]
    assert build.data(parse(plain(compose(given))), CPU).warnings == ()
