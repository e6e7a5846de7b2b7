"""`init_from=RUN`: another run's weights, all else fresh; what does not fit is refused in a line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import processes
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from stockenh.config import build
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.training import checkpoint

AT_ONCE = ("optimizer.lr=1e-12", "optimizer.weight_decay=0", "schedule=constant")  # a rate that moves nothing


@pytest.fixture(scope="session")
def source(small_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all three weights."""
    run = tmp_path_factory.mktemp("source") / "run (1)"
    done = processes.run("train", *small_run, "averaging=ema_swa", "train.epochs=2", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "copy"))


def weights(run: Path, name: str = "raw") -> dict[str, torch.Tensor]:
    return load_file(run / "weights" / f"{name}.safetensors")


def near(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=0, atol=1e-8) for k in a)


@pytest.mark.parametrize("name", ["raw", "ema", "swa"])
def test_it_begins_with_the_weights_that_are_named(stockenh, small_run, source, tmp_path, name):
    run = tmp_path / "run"
    answer = stockenh(
        "train", *small_run, *AT_ONCE, f"init_from={source}", f"weights={name}", f"hydra.run.dir={run}"
    )
    assert answer.code == 0, answer.err
    assert f"{name} weights of {source}" in answer.out
    assert near(weights(run), weights(source, name))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["init_from"], config["weights"]) == (str(source), name)
    file = (source / "weights" / f"{name}.safetensors").read_bytes()
    assert json.loads((run / "manifest.json").read_text())["init_from"] == {
        "run": str(source), "weights": name, "sha256": hashlib.sha256(file).hexdigest()
    }  # fmt: skip


def test_without_a_name_it_takes_those_that_validation_chose(stockenh, small_run, copy, tmp_path):
    summary = json.loads((copy / "summary.json").read_text())
    for name in ("swa", "ema"):
        (copy / "summary.json").write_text(json.dumps({**summary, "weights": name}))
        run = tmp_path / name
        answer = stockenh("train", *small_run, *AT_ONCE, f"init_from={copy}", f"hydra.run.dir={run}")
        assert answer.code == 0, answer.err
        assert near(weights(run), weights(copy, name))


def test_all_but_the_weights_is_fresh(stockenh, small_run, copy, tmp_path):
    """With the initial weights of the seed in the source's place, the run is one without init_from."""
    without, again = tmp_path / "without", tmp_path / "again"
    config = parse(plain(compose(small_run)))
    prepared = build.data(config, torch.device("cpu"))
    initial = build.model(config, prepared, torch.device("cpu")).state_dict()
    save_file({k: v.contiguous() for k, v in initial.items()}, copy / "weights" / "raw.safetensors")
    assert stockenh("train", *small_run, "train.epochs=2", f"hydra.run.dir={without}").code == 0
    begun = ("train.epochs=2", f"init_from={copy}", "weights=raw", f"hydra.run.dir={again}")
    assert stockenh("train", *small_run, *begun).code == 0
    ends = [checkpoint.load(run / "checkpoints" / "last.pt")["learner"]["model"] for run in (without, again)]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_a_resume_needs_the_source_no_more_once_there_is_a_checkpoint(stockenh, small_run, copy, tmp_path):
    run = tmp_path / "run"
    assert stockenh("train", *small_run, f"init_from={copy}", f"hydra.run.dir={run}").code == 0
    shutil.rmtree(copy)
    answer = stockenh("train", f"resume={run}", "train.epochs=2")
    assert answer.code == 0, answer.err
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2


def stopped_before_its_first_checkpoint(run: Path) -> None:
    for name in ("checkpoints", "weights", "report"):
        shutil.rmtree(run / name)
    for name in ("summary.json", "metrics.jsonl"):
        (run / name).unlink()


def test_killed_before_its_first_checkpoint_it_begins_again_from_the_source(
    stockenh, small_run, copy, tmp_path
):
    run = tmp_path / "run"
    begun = (f"init_from={copy}", f"hydra.run.dir={run}")
    assert stockenh("train", *small_run, *begun).code == 0
    expected = weights(run)
    stopped_before_its_first_checkpoint(run)
    moved = copy.rename(tmp_path / "moved")
    answer = stockenh("train", f"resume={run}")
    assert answer.code == 2
    assert "stopped before its first checkpoint and would start again" in answer.err
    assert f"init_from={copy}: no run folder is there" in answer.err and len(answer.err.splitlines()) == 1
    moved.rename(copy)
    answer = stockenh("train", f"resume={run}")
    assert answer.code == 0, answer.err
    assert all(torch.equal(weights(run)[k], expected[k]) for k in expected)

    stopped_before_its_first_checkpoint(run)
    name = json.loads((run / "manifest.json").read_text())["init_from"]["weights"]
    save_file({k: v + 1 for k, v in weights(copy, name).items()}, copy / "weights" / f"{name}.safetensors")
    answer = stockenh("train", f"resume={run}")
    assert answer.code == 2 and "has changed since" in answer.err


def test_a_relative_path_is_recorded_in_full(stockenh, small_run, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stockenh("train", *small_run, "init_from=copy", "hydra.run.dir=run").code == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["init_from"] == str(copy)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["model.d_model=32"],
            "weights are another model's: convs.0.norm.bias is 16 there and 32 in this run",
        ),
        (["model.layers=2"], "is missing there and"),
        (["weights=best"], "weights=best: no such weights"),
        (["data.timeframes=[1d,1w]"], "was trained on other context features than this data has"),
        (["data.horizons=[3,5]"], "was trained on 3 horizons"),
    ],
)
def test_what_does_not_fit_is_refused(stockenh, small_run, source, tmp_path, arguments, says):
    run = f"hydra.run.dir={tmp_path / 'run'}"
    answer = stockenh("train", *small_run, f"init_from={source}", *arguments, run)
    assert answer.code == 2
    assert says in answer.err and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("damage", "arguments", "says"),
    [
        ("summary.json", [], "the run is not finished"),
        ("config.yaml", [], "no run folder is there"),
        ("fitted.json", [], "lacks fitted.json"),
        ("weights/swa.safetensors", ["weights=swa"], "has no swa weights; it has ema, raw"),
        ("weights/raw.safetensors cut", ["weights=raw"], "is cut short or damaged"),
        ("summary names a path", [], "weights; it has ema, raw, swa"),
    ],
)
def test_a_source_that_is_not_whole_is_refused(stockenh, small_run, copy, tmp_path, damage, arguments, says):
    if damage.endswith(" cut"):
        path = copy / damage.removesuffix(" cut")
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "summary names a path":
        (copy / "summary.json").write_text('{"weights": "../../elsewhere"}')
    else:
        (copy / damage).unlink()
    run = f"hydra.run.dir={tmp_path / 'run'}"
    answer = stockenh("train", *small_run, f"init_from={copy}", *arguments, run)
    assert answer.code == 2
    assert says in answer.err and len(answer.err.splitlines()) == 1


def test_weights_alone_say_nothing_to_train(stockenh, small_run):
    answer = stockenh("train", *small_run, "weights=ema")
    assert answer.code == 2
    assert "weights=ema says which weights of init_from=RUN" in answer.err
