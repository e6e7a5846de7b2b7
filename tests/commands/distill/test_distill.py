"""`stockenh distill`: a student of a run, the same without a teacher, and the comparison of both."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
import torch
import yaml
from safetensors.torch import load_file

from stockenh.commands.distill.compare import retention
from stockenh.commands.train.session import teacher_predictions
from stockenh.commands.trained import Trained, shifts_probabilities
from stockenh.config import build
from stockenh.storage.run_folder import RunFolder
from stockenh.training import checkpoint
from stockenh.training.losses.huber_bce import HuberBCE

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
STUDENT = [
    "device=cpu", "model=timeformer", "model.layers=1", "model.d_model=8", "model.heads=2", "model.ffn=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(finished_run):
    return finished_run


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    """A finished student of it, and the output of the command."""
    folder = tmp_path_factory.mktemp("student") / "run"
    recipe = [*STUDENT, "train.epochs=2", f"hydra.run.dir={folder}"]
    done = processes.run("distill", f"teacher={teacher}", *recipe)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def weights(folder: Path, name: str = "raw") -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "weights" / f"{name}.safetensors"))


def test_student_and_comparison_are_whole_run_folders(teacher, student):
    folder, out = student
    for run in (folder, folder / "without_teacher"):
        assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    assert yaml.safe_load((folder / "config.yaml").read_text())["teacher"] == str(teacher)
    assert yaml.safe_load((folder / "without_teacher/config.yaml").read_text())["teacher"] is None
    manifest = json.loads((folder / "manifest.json").read_text())
    file = f"weights/{manifest['teacher']['weights']}.safetensors"
    assert manifest["teacher"]["sha256"] == digest(teacher)[file]
    assert manifest["teacher"]["shifts_probabilities"] is False
    assert (folder / "report/distillation.png").stat().st_size > 10_000
    for word in ("teacher", "student alone", "kept", "ms at batch 1", "windows/s at 256"):
        assert word in out


@pytest.mark.parametrize(
    ("alpha", "origin", "weight", "shifts"),
    [
        (None, None, 0.5, False),
        (0.25, None, 0.5, True),
        (None, {"shifts_probabilities": True}, 0.5, True),
        (None, {"shifts_probabilities": True}, 0.0, False),
        (None, {"shifts_probabilities": False}, 1.0, False),
        (0.25, {"shifts_probabilities": False}, 1.0, True),
        (None, {}, 0.5, False),  # of a version that did not write it
    ],
)
def test_logits_may_be_shifted_by_the_run_s_loss_or_that_of_its_teacher(alpha, origin, weight, shifts):
    config = SimpleNamespace(
        loss=HuberBCE(alpha=alpha),
        teacher=None if origin is None else "teacher",
        distill=SimpleNamespace(weight=weight),
    )
    folder = SimpleNamespace(read_manifest=lambda: {"teacher": origin})
    assert shifts_probabilities(config, folder) is shifts


def test_data_split_and_embedding_are_the_teacher_s_and_the_recipe_is_not(teacher, student):
    mine, its = (yaml.safe_load((run / "config.yaml").read_text()) for run in (student[0], teacher))
    for group in ("data", "split", "embedding"):
        assert mine[group] == its[group]
    assert mine["averaging"]["ema_decay"] is None and its["averaging"]["ema_decay"] is not None


def test_the_table_has_costs_and_scores_of_each(teacher, student):
    folder, _ = student
    found = json.loads((folder / "distillation.json").read_text())
    summary = json.loads((teacher / "summary.json").read_text())
    assert found["teacher"]["weights"] == summary["weights"]
    for horizon, scores in found["scores"]["teacher"].items():
        for name in ("accuracy", "majority", "log_loss", "ece", "n"):
            assert scores[name] == pytest.approx(summary["parts"]["test"][horizon][name], rel=1e-6)
    for run, name in ((folder, "student"), (folder / "without_teacher", "student alone")):
        own = json.loads((run / "summary.json").read_text())
        cost = found["cost"][name]
        assert cost["parameters"] == own["parameters"]
        assert cost["bytes"] == (run / "weights" / f"{own['weights']}.safetensors").stat().st_size
        assert cost["milliseconds_at_1"] > 0 and cost["windows_per_second_at_256"] > 0
        accuracy = own["parts"]["test"]["h3"]["accuracy"]
        assert found["scores"][name]["h3"]["accuracy"] == pytest.approx(accuracy)


def test_a_teacher_moves_the_student_and_is_no_part_of_it(student):
    runs = (student[0], student[0] / "without_teacher")
    one, other = map(weights, runs)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    taught, alone = (checkpoint.load(run / "checkpoints/last.pt")["learner"] for run in runs)
    assert set(taught["model"]) == set(alone["model"])
    assert len(taught["optimizer"]["state"]) == len(alone["optimizer"]["state"])


def test_the_more_it_weighs_the_nearer_the_student_comes_to_its_answers(teacher, stockenh, tmp_path):
    before, distance = digest(teacher), {}
    for weight in (0.0, 1.0):
        run = tmp_path / str(weight)
        arguments = (f"distill.weight={weight}", "train.epochs=8", "train.patience=8", "optimizer.lr=2e-2")
        stockenh("distill", f"teacher={teacher}", *STUDENT, *arguments, f"hydra.run.dir={run}", code=0)
        trained = Trained.open(RunFolder(run), None)
        prepared = build.data(trained.run, CPU)
        answers = teacher_predictions(trained.run, trained, prepared, prepared.rows["train"], CPU)
        taught = load_file(run / "teacher.safetensors")
        distance[weight] = float((torch.from_numpy(answers.up_logits) - taught["up_logits"]).square().mean())
    assert distance[1.0] < 0.5 * distance[0.0]
    one, other = weights(tmp_path / "0.0"), weights(tmp_path / "0.0/without_teacher")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert digest(teacher) == before


@pytest.mark.deep
def test_a_killed_student_resumes_to_the_same_bits_without_its_teacher(teacher, student, tmp_path):
    copy = Path(shutil.copytree(teacher, tmp_path / "teacher"))
    run = tmp_path / "run"
    arguments = [f"teacher={copy}", *STUDENT, "train.epochs=2", f"hydra.run.dir={run}"]
    moment = processes.Hold(tmp_path / "hold", epochs=1)
    process = processes.start("distill", *arguments, hold=moment)
    moment.wait_for(process)
    process.kill()
    kept = copy.rename(tmp_path / "elsewhere")
    resumed = processes.run("train", f"resume={run}")
    assert resumed.returncode == 0, resumed.stderr
    assert f"stockenh distill resume={run}" in resumed.stdout
    one, other = weights(run), weights(student[0])
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept.rename(copy)
    whole = processes.run("distill", f"resume={run}")
    assert whole.returncode == 0, whole.stderr
    assert "student alone" in whole.stdout and (run / "distillation.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.lookback=30", "model.patch=10"], "data.lookback=30: teacher={teacher}"),
        (["data.timeframes=[1d]"], "data.timeframes"),
        (["distill.temperature=0"], "distill.temperature=0 must be above 0"),
        (["distill.weight=1.5"], "distill.weight=1.5 must be at most 1"),
        (["init_from={teacher}"], "init_from is not a key of stockenh distill"),
    ],
)
def test_bad_input_is_one_clear_line(teacher, refused, here, arguments, message):
    given = [argument.format(teacher=teacher) for argument in arguments]
    assert message.format(teacher=teacher) in refused("distill", f"teacher={teacher}", *STUDENT, *given)


def test_a_run_that_can_not_teach_is_refused(teacher, refused, here):
    assert "is no student of a teacher" in refused("distill", f"resume={teacher}")
    copy = Path(shutil.copytree(teacher, here / "copy"))
    (copy / "calibration.json").unlink()
    assert "lacks calibration.json" in refused("distill", f"teacher={copy}", "weights=raw", *STUDENT)


@pytest.mark.parametrize("name", ["train", "find-lr"])
def test_only_distill_takes_a_teacher(teacher, stockenh, here, small_run, name):
    assert "stockenh distill" in stockenh(name, *small_run, f"teacher={teacher}", code=2).err


def scores(accuracy: float | None, low: float | None, majority: float | None) -> dict[str, float | None]:
    return {"accuracy": accuracy, "accuracy_low": low, "majority": majority}


def test_what_is_kept_is_the_share_above_the_majority_class():
    teacher = scores(0.70, 0.66, 0.55)
    assert retention(scores(0.67, 0.6, 0.55), teacher) == pytest.approx(0.12 / 0.15)
    assert retention(scores(0.67, 0.6, 0.55), scores(0.56, 0.52, 0.55)) is None
    assert retention(scores(None, None, None), scores(None, None, None)) is None
