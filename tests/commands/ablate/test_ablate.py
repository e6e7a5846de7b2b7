"""`stockenh ablate` from the command line to its table."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import processes
import pytest
import torch
from safetensors.torch import load_file

from stockenh.commands.ablate import perform
from stockenh.commands.ablate.spec import CellAssignment
from stockenh.config.catalog import conf_dir
from stockenh.errors import TrainingError
from stockenh.training.stop import Interrupted

CLAIMS = """\
# @package _global_
# Two techniques with claims that no run can keep. Override: ablate=tiny
defaults:
  - override /hydra/sweeper: stockenh_ablate

ablate:
  seeds: [1, 2]
  horizon: 2
  rounds: 3
  only: null
  leave_one_out: false
  techniques:
    focal:
      title: focal loss
      overrides: [loss.gamma=2.0]
      claims:
        accuracy: {least: 90.0, says: a miracle}
    tta:
      title: TTA
      kind: views
      claims:
        inference_speed: {least: 2.0, says: twice as fast}
  all_claims:
    accuracy: {least: -100.0, says: nothing}
"""


@pytest.fixture
def no_memory(monkeypatch) -> None:
    """Leaves out the measurement of memory, which takes processes of its own."""
    monkeypatch.setattr(perform, "training_memory", lambda *_: 1000)


@pytest.fixture
def tiny(tmp_path, small_run, no_memory, monkeypatch) -> list[str]:
    """Arguments of an ablation of a second a run, its workers in this process."""
    folder = tmp_path / "conf" / "ablate"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(CLAIMS)
    monkeypatch.chdir(tmp_path)
    # one short horizon, so that the few test dates fill two blocks
    short = ["data.horizons=[2]", "hydra.sweep.dir=ab"]
    return ["ablate", "ablate=tiny", "--config-dir", str(tmp_path / "conf"), *small_run, *short]


def cells(folder: Path) -> dict[str, float]:
    """When each cell was closed, by its folder."""
    return {str(p.parent.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("cell.json")}


def scores(folder: Path, recipe: str, seed: int, horizon: str) -> dict:
    summary = json.loads((folder / recipe / f"seed{seed}" / "summary.json").read_text())
    return summary["parts"]["test"][horizon]


@pytest.mark.slow
def test_from_the_command_to_the_table_and_on_with_more_seeds(tiny, stockenh, tmp_path, pictures):
    answer = stockenh(*tiny)
    assert answer.code == 0, answer.err
    folder = tmp_path / "ab"
    assert set(cells(folder)) == {f"{r}/seed{s}" for r in ("plain", "focal") for s in (1, 2)} | {"cost"}
    found = json.loads((folder / "ablation.json").read_text())
    lines = {line["name"]: line for line in found["lines"]}
    assert list(lines) == ["plain", "focal", "tta", "all"]
    for name, unit in (("accuracy", 100), ("log_loss", 1), ("auc", 1)):
        own, plain = ([scores(folder, r, s, "h2")[name] for s in (1, 2)] for r in ("focal", "plain"))
        measured = lines["focal"]["differences"]["h2"][name]
        assert measured["n"] == 2 and measured["over"] == "seeds and dates"
        assert measured["mean"] == pytest.approx(unit * (sum(own) - sum(plain)) / 2, abs=1e-5)
        assert measured["low"] < measured["mean"] < measured["high"]
    words = {name: [c["verdict"]["word"] for c in line["claims"]] for name, line in lines.items()}
    assert words == {"plain": [], "focal": ["does not hold"], "tta": ["does not hold"], "all": ["holds"]}
    table = (folder / "ablation.md").read_text()
    assert "| focal loss | a miracle | " in table and "| does not hold |" in table
    assert "does not hold" in answer.out and "a miracle" in answer.out
    assert (folder / "ablation.png").stat().st_size > 10_000
    assert "test" in json.loads((folder / "plain/seed1/summary.json").read_text())["parts"]

    listed = stockenh("runs", "ab")
    assert "4 of 4 runs" in listed.out

    before = cells(folder)
    own = f"--config-dir={tmp_path / 'conf'}"
    again = stockenh("ablate", "resume=ab", own)
    assert again.code == 0 and cells(folder) == before
    more = stockenh("ablate", "resume=ab", own, "ablate.seeds=[1,2,3]")
    assert more.code == 0, more.err
    after, table_of_three = cells(folder), (folder / "ablation.json").read_text()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"plain/seed3", "focal/seed3"}

    removed = ["plain/seed1", "focal/seed2"]
    for name in removed:  # as an earlier version left them
        (folder / name / "forecasts.safetensors").unlink()
    earlier = stockenh("ablate", "resume=ab", own, "ablate.seeds=[1,2,3]")
    assert earlier.code == 0, earlier.err
    assert "an earlier version made 2 of the cells, without forecasts of the test part" in earlier.out
    again = cells(folder)
    assert {name for name in again if again[name] != after[name]} == set(removed)
    assert json.loads((folder / "ablation.json").read_text())["lines"] == json.loads(table_of_three)["lines"]

    other = stockenh(*tiny, "optimizer.lr=1e-4")
    assert other.code == 2
    assert "made with other settings (optimizer.lr: 0.0001, was 0.002)" in other.err
    assert "stockenh ablate resume=" in other.err


def test_a_cell_that_fails_leaves_the_others_alone(tiny, stockenh, tmp_path, monkeypatch):
    def complete(self: CellAssignment, summary: dict, validation: dict) -> None:
        if self.cell.path == "focal/seed1":
            raise TrainingError("the gradient norm is nan")

    monkeypatch.setattr(CellAssignment, "complete", complete)
    answer = stockenh(*tiny, "ablate.only=[focal]", "ablate.seeds=[1]")
    assert answer.code == 1
    assert "1 of 3 cells failed; focal/seed1: " in answer.err and "the gradient norm is" in answer.err
    table = (tmp_path / "ab" / "ablation.md").read_text()
    assert "| focal loss | a miracle | n/a |  | can't tell | not measured |" in table
    assert "- focal/seed1: " in table
    assert "one seed gives intervals over dates only and no verdict" in answer.out
    assert (tmp_path / "ab/plain/seed1/summary.json").is_file()


def test_an_interrupted_cell_is_taken_up_to_the_same_weights(tiny, stockenh, tmp_path, monkeypatch):
    given = [*tiny, "ablate.only=[focal]", "ablate.seeds=[1]", "train.epochs=2"]
    assert stockenh(*given).code == 0
    folder = tmp_path / "ab"
    undisturbed = load_file(folder / "plain/seed1/weights/raw.safetensors")
    shutil.rmtree(folder)

    def stop(self: CellAssignment, epoch: int, metrics: dict) -> bool:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(CellAssignment, "report", stop)
        stopped = stockenh(*given)
    assert stopped.code == 130 and "Continue with: stockenh ablate resume=" in stopped.err
    assert len((folder / "plain/seed1/metrics.jsonl").read_text().splitlines()) == 1
    alone = stockenh("ablate", "resume=ab")
    own = f"--config-dir={tmp_path / 'conf'}"
    assert alone.code == 2 and f"made with options of its own: add {own} if you trust it" in alone.err
    assert f"resume={folder} {own}" in stopped.err
    assert stockenh("ablate", "resume=ab", own).code == 0
    assert len((folder / "plain/seed1/metrics.jsonl").read_text().splitlines()) == 2
    weights = load_file(folder / "plain/seed1/weights/raw.safetensors")
    assert all(torch.equal(weights[name], undisturbed[name]) for name in undisturbed)


@pytest.mark.deep
def test_two_processes_share_the_cells_of_the_shipped_list(small_run, tmp_path):
    few = ["ablate.only=[distillation]", "ablate.seeds=[1,2]", "ablate.n_workers=2"]
    student = 'ablate.techniques.distillation.overrides=["model.layers=1","model.ffn=8"]'
    given = [*few, student, "ablate.rounds=3", *small_run, "hydra.sweep.dir=ab"]
    done = processes.run("ablate", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recipes = ("plain", "student_alone", "distillation")
    assert set(cells(tmp_path / "ab")) == {f"{r}/seed{s}" for r in recipes for s in (1, 2)} | {"cost"}
    found = json.loads((tmp_path / "ab/ablation.json").read_text())
    assert found["cost"]["memory"]["plain"] > 0
    (kept,) = (line for line in found["lines"] if line["name"] == "distillation")
    of_plain = [scores(tmp_path / "ab", "plain", s, "h5") for s in (1, 2)]
    own = [scores(tmp_path / "ab", "distillation", s, "h5")["accuracy"] for s in (1, 2)]
    above = sum(of["accuracy"] - of["majority"] for of in of_plain)
    claim = kept["claims"][0]
    if above > 0 and claim["measured"] is not None:
        share = (sum(own) - sum(of["majority"] for of in of_plain)) / above
        assert claim["measured"]["mean"] == pytest.approx(share)
    else:
        assert "there is nothing to keep" in claim["verdict"]["why"]
    assert kept["compute"] == 2.0
    smaller = found["cost"]["weights_bytes"]
    assert smaller["distillation"] < smaller["plain"]
    teacher = (tmp_path / "ab/distillation/seed2/config.yaml").read_text()
    assert f"teacher: {tmp_path}/ab/plain/seed2" in teacher


@pytest.mark.deep
def test_a_search_begins_with_the_plain_recipe_and_is_judged_by_its_best_trial(
    small_run, tmp_path, stockenh, no_memory, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    own = [
        "sweep.n_trials=3",
        "+sweep.sampler.n_startup_trials=1",
        "optimizer.lr=tag(log, interval(1e-5, 1e-1))",
    ]
    given = [*small_run, "ablate.only=[optuna]", "ablate.seeds=[1]", "ablate.n_workers=1", "ablate.rounds=3"]
    quoted = ", ".join(f'"{override}"' for override in own)
    answer = stockenh(
        "ablate", *given, f"ablate.techniques.optuna.overrides=[{quoted}]", "hydra.sweep.dir=ab"
    )
    assert answer.code == 0, answer.err
    cell = tmp_path / "ab/optuna/seed1"
    figures = json.loads((cell / "cell.json").read_text())["figures"]
    assert figures["trials"] == 3
    assert "trial 0  has the config's own values" in (cell / "search.log").read_text()
    first, plain = (
        load_file(folder / "weights/raw.safetensors")
        for folder in (cell / "search/0", tmp_path / "ab/plain/seed1")
    )
    assert all(torch.equal(first[name], plain[name]) for name in plain)
    (line,) = (
        line
        for line in json.loads((tmp_path / "ab/ablation.json").read_text())["lines"]
        if line["name"] == "optuna"
    )
    best = json.loads((cell / "search/sweep.json").read_text())["test"][-1]
    assert figures["trial"] == best["trial"]
    assert line["level"]["h5"]["accuracy"] == pytest.approx(best["scores"]["h5"]["accuracy"])
    assert line["compute"] == 3.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ablate.only=[emma]"], "no such technique: emma. Nearest: ema"),
        (["seed=1"], "ablate.seeds=[...] says which seeds"),
        (["loss=focal,huber_bce"], "an ablation is of one recipe"),
        (["split=all", "~split.val", "~split.test"], "this split has no val"),
        (["ablate.horizon=7"], "ablate.horizon=7 is none of data.horizons: take one of 3, 5, 10"),
        (
            ["ablate.only=[optuna]", 'ablate.techniques.optuna.overrides=["sweep.n_trials=10"]'],
            "ablate.techniques.optuna: sweep.n_trials=10 is no more than the 10 trials that TPESampler",
        ),
        (["ablate=quik"], "ablate=quik: no such ablate. Nearest: quick"),
        (["resume=.", "loss=focal"], "loss can't be given with resume"),
        (["resume=."], "holds no ablation"),
        (
            ["ablate.only=[focal]", 'ablate.techniques.focal.overrides=["model.heads=5"]'],
            "focal is no valid run",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    arguments, said, stockenh, small_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    more = small_run if not any(a.startswith("resume=") for a in arguments) else []
    if any(a.startswith("split=all") for a in arguments):
        more, arguments = [a for a in more if not a.startswith("split.")], ["split=all"]
    answer = stockenh(
        "ablate", *more, *arguments, *([] if "resume=." in arguments else ["hydra.sweep.dir=ab"])
    )
    assert answer.code == 2, answer.err
    assert said in answer.err
    assert not list(tmp_path.rglob("summary.json"))


def test_a_single_run_refuses_what_makes_many(stockenh, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["hydra/sweeper=basic"], ["--multirun", "hydra.sweep.dir=ab"]):
        answer = stockenh("train", "ablate=quick", *arguments, *small_run)
        assert answer.code == 2 and "a comparison of techniques is stockenh ablate" in answer.err


@pytest.mark.slow
def test_the_tour_s_ablations_do_what_they_say(
    stockenh, small_run, bars_folder, tmp_path, no_memory, monkeypatch
):
    tour = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")
    lines = re.findall(r"^stockenh ablate.*$", tour, re.MULTILINE)
    assert lines[0] == "stockenh ablate" and len(lines) == 2
    monkeypatch.chdir(tmp_path)
    few = ["ablate.only=[ema]", "ablate.seeds=[1]", "ablate.rounds=3", "ablate.n_workers=1"]
    for line in lines:
        words = shlex.split(line.replace("DIR", str(bars_folder)))[1:]
        fill = [w for w in small_run if not w.startswith(("data=", "data.path="))]
        market = [] if "data=files" in words else ["data.symbols=2", "data.bars=160"]
        answer = stockenh(*words, *fill, *market, *few)
        assert answer.code == 0, answer.err
        assert (
            "one seed gives intervals over dates only" in answer.out
            and "not run  mixed precision" in answer.out
        )
    assert len(list(tmp_path.glob("outputs/*/*/ablation.png"))) == 2


def test_the_quick_list_is_the_full_one_made_small():
    assert {path.stem for path in (conf_dir() / "ablate").glob("*.yaml")} == {"full", "quick"}
