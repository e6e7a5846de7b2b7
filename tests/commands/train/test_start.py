"""`init_from=RUN`: another run's weights, all else fresh; what does not fit is refused in a line."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.training import checkpoint

AT_ONCE = ("optimizer.lr=1e-12", "optimizer.weight_decay=0", "schedule=constant")  # a rate that moves nothing
RUN = Path("run")


@pytest.fixture
def copy(finished_run, here):
    """A copy of a run with all three weights, in the current folder."""
    return Path(shutil.copytree(finished_run, here / "copy"))


@pytest.fixture
def start(small_run, stockenh, here):
    return lambda *more: stockenh("train", *small_run, *more, "hydra.run.dir=run", code=0)


def weights(run: Path, name: str = "raw") -> dict[str, torch.Tensor]:
    return load_file(run / "weights" / f"{name}.safetensors")


def near(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=0, atol=1e-8) for k in a)


@pytest.mark.parametrize("name", ["raw", "ema", "swa"])
def test_it_begins_with_the_weights_that_are_named(start, copy, name):
    answer = start(*AT_ONCE, "init_from=copy", f"weights={name}")
    assert f"{name} weights of {copy}" in answer.out
    assert near(weights(RUN), weights(copy, name))
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert (config["init_from"], config["weights"]) == (str(copy), name)  # its path in full
    file = (copy / "weights" / f"{name}.safetensors").read_bytes()
    assert json.loads((RUN / "manifest.json").read_text())["init_from"] == {
        "run": str(copy), "weights": name, "sha256": hashlib.sha256(file).hexdigest()
    }  # fmt: skip


@pytest.mark.parametrize("name", ["swa", "ema"])
def test_without_a_name_it_takes_those_that_validation_chose(start, copy, name):
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps({**summary, "weights": name}))
    start(*AT_ONCE, f"init_from={copy}")
    assert near(weights(RUN), weights(copy, name))


def test_all_but_the_weights_is_fresh(start, small_run, copy):
    """With the initial weights of the seed in the source's place, the run is one without init_from."""
    config = parse(plain(compose(small_run)))
    prepared = build.data(config, torch.device("cpu"))
    initial = build.model(config, prepared, torch.device("cpu")).state_dict()
    save_file({k: v.contiguous() for k, v in initial.items()}, copy / "weights" / "raw.safetensors")
    start("train.epochs=2")
    without = RUN.rename("without")
    start("train.epochs=2", f"init_from={copy}", "weights=raw")
    one, other = (checkpoint.load(run / "checkpoints/last.pt")["learner"]["model"] for run in (without, RUN))
    assert all(torch.equal(one[k], other[k]) for k in one)


def stopped_before_its_first_checkpoint(run: Path) -> None:
    for name in ("checkpoints", "weights", "report"):
        shutil.rmtree(run / name)
    for name in ("summary.json", "metrics.jsonl"):
        (run / name).unlink()


def test_only_a_run_without_a_checkpoint_begins_again_from_the_source(start, stockenh, refused, copy, here):
    start(f"init_from={copy}")
    shutil.copytree(RUN, "longer")
    expected = weights(RUN)
    stopped_before_its_first_checkpoint(RUN)
    moved = copy.rename(here / "moved")
    err = refused("train", "resume=run")
    assert "stopped before its first checkpoint and would start again" in err
    assert f"init_from={copy}: no such folder" in err
    stockenh("train", "resume=longer", "train.epochs=2", code=0)  # it has a checkpoint
    assert json.loads(Path("longer/summary.json").read_text())["epochs"] == 2
    moved.rename(copy)
    stockenh("train", "resume=run", code=0)
    assert all(torch.equal(weights(RUN)[k], expected[k]) for k in expected)

    stopped_before_its_first_checkpoint(RUN)
    name = json.loads((RUN / "manifest.json").read_text())["init_from"]["weights"]
    save_file({k: v + 1 for k, v in weights(copy, name).items()}, copy / "weights" / f"{name}.safetensors")
    assert "has changed since" in refused("train", "resume=run")


@pytest.mark.parametrize(
    ("damage", "argument", "message"),
    [
        ("", "model.d_model=32", "are another model's: convs.0.norm.bias is 16 there and 32 in this run"),
        ("", "model.layers=2", "is missing there and"),
        ("", "weights=best", "weights=best: no such weights"),
        ("", "data.timeframes=[1d,1w]", "was trained on other context features than this data has"),
        ("", "data.horizons=[3,5]", "was trained on 3 horizons"),
        ("summary.json gone", "weights=null", "the run is not finished"),
        ("config.yaml gone", "weights=null", "has no config.yaml"),
        ("fitted.json gone", "weights=null", "lacks fitted.json"),
        ("weights/swa.safetensors gone", "weights=swa", "has no swa weights; it has ema, raw"),
        ("weights/raw.safetensors cut", "weights=raw", "is cut short or damaged"),
        ("summary.json names a path", "weights=null", "has no ../../x weights; it has ema, raw, swa"),
    ],
)
def test_what_does_not_fit_or_is_not_whole_is_refused(refused, small_run, copy, damage, argument, message):
    name, _, what = damage.partition(" ")
    if what == "gone":
        (copy / name).unlink()
    elif what == "cut":
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
    elif what:
        summary = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(summary | {"weights": "../../x"}))
    assert message in refused("train", *small_run, f"init_from={copy}", argument, "hydra.run.dir=run")


def test_weights_alone_say_nothing_to_train(stockenh, small_run):
    err = stockenh("train", *small_run, "weights=ema", code=2).err
    assert "weights=ema says which weights of init_from=RUN" in err
